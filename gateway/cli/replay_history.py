"""Reads a window of the gateway's history for the command line."""

import asyncio

from sqlalchemy.exc import ProgrammingError

from gateway.database.connection import Database
from gateway.database.embedded import EmbeddedPostgres
from gateway.errors import NotFound, StartupFailure
from gateway.logs import set_up_logging
from gateway.replay.workload.history import HistoryWindow, read_history
from gateway.replay.workload.workload import Workload
from gateway.settings import read_settings


def read_window(window: HistoryWindow) -> Workload:
    """The requests of a window, from DATABASE_URL or else from the data folder's PostgreSQL."""
    settings = read_settings()
    set_up_logging(settings.log_level)
    if settings.database_url is not None:
        return asyncio.run(_read(settings.database_url, window))
    if not (settings.data_folder / "postgres").is_dir():
        raise NotFound(f"there is no history in {settings.data_folder}; set DATABASE_URL")
    with EmbeddedPostgres(settings.data_folder) as server:
        return asyncio.run(_read(server.url, window))


async def _read(url: str, window: HistoryWindow) -> Workload:
    database = await Database.open(url, statement_s=None)
    try:
        return await read_history(database.sessions, window)
    except ProgrammingError as error:
        raise StartupFailure("the database lacks this release's tables: lmaas migrate") from error
    finally:
        await database.close()
