"""Times that Postgres can hold and Python cannot: `infinity`, and years before 1 or after 9999.

A column may have one by a client of the database or a restored backup. psycopg raises an error for
it, so that a single row would stop whatever reads many.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import psycopg
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader
from psycopg.pq import Format

EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
LATEST: Final = datetime.max.replace(tzinfo=UTC)
MAX_CLOCK_ERROR: Final = timedelta(hours=1)  # of the database's clock against this machine's
BOUNDS: Final[Mapping[str, tuple[date, date]]] = {
    "timestamptz": (EARLIEST, LATEST),
    "date": (date.min, date.max),
}


def read_nearest(connection: psycopg.AsyncConnection[Any]) -> None:
    """Read a time that Python cannot hold as the nearest one that it can."""
    for name, (earliest, latest) in BOUNDS.items():
        connection.adapters.register_loader(name, _loader(name, earliest, latest))


def has_come(at: datetime) -> bool:
    """Whether this time is past, as far as clocks agree: no request or run began after now."""
    return at <= datetime.now(UTC) + MAX_CLOCK_ERROR


def _loader(name: str, earliest: date, latest: date) -> type[Loader]:
    found = psycopg.adapters.get_loader(psycopg.adapters.types[name].oid, Format.TEXT)
    assert found is not None, "psycopg reads times"
    own = found

    class NearestLoader(Loader):
        def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
            super().__init__(oid, context)
            self._own = own(oid, context)

        def load(self, data: Buffer) -> Any:
            try:
                return self._own.load(data)
            except psycopg.DataError:
                written = bytes(data)
                before = written.startswith(b"-") or written.endswith(b"BC")
                return earliest if before else latest

    return NearestLoader
