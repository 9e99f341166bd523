import asyncio

from structlog.testing import capture_logs

from gateway.database.repetition import repeat
from gateway.errors import DatabaseLost
from tests.conftest import PATIENCE_S


async def test_error_of_one_turn_does_not_end_the_next() -> None:
    errors: list[Exception] = [DatabaseLost("away"), ValueError("unreadable"), OSError("full")]
    done = asyncio.Event()

    async def act() -> None:
        if errors:
            raise errors.pop(0)
        done.set()

    with capture_logs() as logs:
        task = asyncio.create_task(repeat(act, 0.0, delayed="work_delayed"))
        async with asyncio.timeout(PATIENCE_S):
            await done.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [each["event"] for each in logs] == ["work_delayed", "turn_failed", "work_delayed"]
