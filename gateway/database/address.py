"""A database's address as libpq understands it."""

from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from gateway.errors import StartupFailure

ACCEPTED: Final = "postgresql://user:password@host:5432/database"
SCHEMES: Final = ("postgres", "postgresql", "postgresql+psycopg")
DEFAULTS: Final[dict[str, Any]] = {
    "application_name": "lmaas",
    "connect_timeout": 5,
    "keepalives_idle": 15,  # a peer that went away without a word is noticed
    "tcp_user_timeout": 15_000,
}


def connection_parameters(url: str) -> dict[str, Any]:
    """`url` as libpq's parameters. StartupFailure, without any of its text, if it is no address.

    Taken are postgresql:// in all of libpq's forms (postgres:// and SQLAlchemy's
    postgresql+psycopg:// too; a socket's folder as ?host=…), and `key=value` pairs.
    """
    scheme, mark, rest = url.strip().partition("://")
    if mark and scheme not in SCHEMES:
        raise StartupFailure(
            f"DATABASE_URL: {scheme}:// is not a Postgres address; accepted is {ACCEPTED}"
        )
    plain = f"postgresql://{rest}" if mark else scheme
    try:
        given = conninfo_to_dict(plain)
    except psycopg.ProgrammingError:
        # Neither libpq's words nor its error as a cause: it quotes what it could not read.
        raise StartupFailure(
            f"DATABASE_URL is not a Postgres address; accepted is {ACCEPTED}, "
            "special characters in the password written as %XX"
        ) from None
    return DEFAULTS | {name: value for name, value in given.items() if value is not None}
