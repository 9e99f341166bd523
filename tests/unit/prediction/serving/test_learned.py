import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

from gateway.prediction.adaptation.adaptation import Adaptation
from gateway.prediction.features.length_history import LengthOutcome
from gateway.prediction.serving.learned import ROWS_PER_TURN, learn_rows
from gateway.prediction.serving.warm_start import HistoryRow

ROWS = 10 * ROWS_PER_TURN
OUTCOME = LengthOutcome(UUID(int=1), UUID(int=2), None, 5, False, datetime(2026, 1, 1, tzinfo=UTC))


async def test_rows_are_learned_in_many_turns_of_the_loop() -> None:
    rows = [HistoryRow(OUTCOME, UUID(int=3), 0, b"", "model")] * ROWS
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await learn_rows(Adaptation(), rows)
    counting.cancel()
    with suppress(asyncio.CancelledError):
        await counting
    assert turns >= ROWS / ROWS_PER_TURN
