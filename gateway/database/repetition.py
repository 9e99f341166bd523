"""Work on the database that is done again and again, whatever is wrong with one turn."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import LmaasError
from gateway.event_wait import wait_for_event

log = structlog.get_logger()


async def repeat(
    act: Callable[[], Awaitable[None]],
    pause_s: float,
    woken: asyncio.Event | None = None,
    *,
    delayed: str,
    retry_s: float | None = None,
) -> None:
    """Act now and then, and soon after being woken, forever.

    An error is logged and acted on again, after `retry_s` if given: as the event `delayed` while
    the database is away, else, such as for data that cannot be read, as `turn_failed`.
    """
    while True:
        if woken is not None:
            woken.clear()
        wait_s = pause_s
        try:
            await act()
        except (LmaasError, SQLAlchemyError, OSError) as error:
            wait_s = pause_s if retry_s is None else retry_s
            log.warning(delayed, reason=repr(error))
        except Exception:
            log.exception("turn_failed", work=delayed)
        if woken is None:
            await asyncio.sleep(wait_s)
        else:
            await wait_for_event(woken, wait_s)
