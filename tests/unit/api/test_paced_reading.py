"""What arrives together is parsed over several turns of the event loop, in its order."""

import asyncio
from collections.abc import Callable
from time import perf_counter

from gateway.api.connections.paced_reading import TURN_S, PacedReading

FLOOD = 20


def takes(seconds: float) -> Callable[[], None]:
    """Work that takes as long."""

    def work() -> None:
        end = perf_counter() + seconds
        while perf_counter() < end:
            pass

    return work


async def test_flood_is_parsed_in_order_with_turns_between() -> None:
    reading, loop, parsed = PacedReading(), asyncio.get_running_loop(), list[tuple[int, int]]()
    turn = 0

    def parse(number: int) -> None:
        takes(TURN_S)()
        parsed.append((number, turn))

    for number in range(FLOOD):
        if reading.exhausted:
            reading.later(loop, lambda number=number: parse(number))  # type: ignore[misc]
        else:
            reading.now(loop, lambda number=number: parse(number))  # type: ignore[misc]
    while len(parsed) < FLOOD:
        turn += 1
        await asyncio.sleep(0)
    assert [number for number, _ in parsed] == list(range(FLOOD))
    turns = [when for _, when in parsed]
    assert len(set(turns)) == FLOOD


async def test_little_is_parsed_at_once_in_each_turn() -> None:
    reading, loop = PacedReading(), asyncio.get_running_loop()
    for _ in range(3):
        assert not reading.exhausted
        reading.now(loop, takes(TURN_S))
        assert reading.exhausted
        await asyncio.sleep(0)
    assert not reading.exhausted
