"""Reads a window of the gateway's history, and the engine that served it, for the command line."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.exc import ProgrammingError

from gateway.database.connection import Database
from gateway.database.embedded import EmbeddedPostgres
from gateway.database.translation import Sessions
from gateway.errors import NotFound, StartupFailure
from gateway.logs import set_up_logging
from gateway.replay.cost.measured import served_engine
from gateway.replay.cost.model import NamedEngine
from gateway.replay.workload.history import HistoryWindow, count_by_gateway, read_history
from gateway.replay.workload.workload import Workload
from gateway.settings import read_settings

Read = TypeVar("Read")


def read_window(window: HistoryWindow) -> Workload:
    """The requests of a window, from DATABASE_URL or else from the data folder's PostgreSQL."""
    return _with_history(lambda sessions: read_history(sessions, window))


def read_served_window(window: HistoryWindow) -> tuple[Workload, NamedEngine]:
    """The requests of a window, and the engine that served them as measured meanwhile.

    InvalidRequest if it was not measured.
    """

    async def read(sessions: Sessions) -> tuple[Workload, NamedEngine]:
        served = await count_by_gateway(sessions, window)
        engine = await served_engine(sessions, served)
        return await read_history(sessions, window), engine

    return _with_history(read)


def _with_history(read: Callable[[Sessions], Awaitable[Read]]) -> Read:
    """What `read` returns, given sessions on the history."""
    settings = read_settings()
    set_up_logging(settings.log_level)
    if settings.database_url is not None:
        return asyncio.run(_read(settings.database_url, read))
    if not (settings.data_folder / "postgres").is_dir():
        raise NotFound(f"there is no history in {settings.data_folder}; set DATABASE_URL")
    with EmbeddedPostgres(settings.data_folder) as server:
        return asyncio.run(_read(server.url, read))


async def _read(url: str, read: Callable[[Sessions], Awaitable[Read]]) -> Read:
    database = await Database.open(url, statement_s=None)
    try:
        return await read(database.sessions)
    except ProgrammingError as error:
        raise StartupFailure("the database lacks this release's tables: lmaas migrate") from error
    finally:
        await database.close()
