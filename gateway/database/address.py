"""Parses DATABASE_URL into libpq's connection parameters."""

from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from gateway.errors import StartupFailure

ADDRESS_FORM: Final = "postgresql://user:password@host:5432/database"
SCHEMES: Final = ("postgres", "postgresql", "postgresql+psycopg")
DEFAULTS: Final[dict[str, Any]] = {
    "application_name": "lmaas",
    "connect_timeout": 5,
    "keepalives_idle": 15,  # detects a peer that vanished without closing
    "tcp_user_timeout": 15_000,
}


def connection_parameters(url: str) -> dict[str, Any]:
    """`url` as libpq's parameters. StartupFailure, without the URL's text, if it is invalid.

    Accepts postgresql://, postgres:// and SQLAlchemy's postgresql+psycopg:// in all of libpq's
    forms (a socket's folder as ?host=…), and `key=value` pairs.
    """
    scheme, mark, rest = url.strip().partition("://")
    if mark and scheme not in SCHEMES:
        raise StartupFailure(
            f"DATABASE_URL: {scheme}:// is not a Postgres address; accepted is {ADDRESS_FORM}"
        )
    plain = f"postgresql://{rest}" if mark else scheme
    try:
        given = conninfo_to_dict(plain)
    except psycopg.ProgrammingError:
        # Without libpq's message or the error as cause: both quote the URL, with its password.
        raise StartupFailure(
            f"DATABASE_URL is not a Postgres address; accepted is {ADDRESS_FORM}, "
            "special characters in the password written as %XX"
        ) from None
    return DEFAULTS | {name: value for name, value in given.items() if value is not None}
