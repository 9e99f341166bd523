import asyncio

from gateway.api.connections.request_starts import RequestStarts


class Turns:
    """Arrivals in turns of the event loop, and in which turn each request begins."""

    def __init__(self) -> None:
        self.turn = -1
        self.arrived = 0
        self.began: list[tuple[int, int]] = []  # request and turn
        self._loop = asyncio.get_running_loop()
        self._starts = RequestStarts()

    async def run(self, *arrivals: int) -> list[tuple[int, int]]:
        """This many requests arrive in each turn; returns once all have begun."""
        ended = asyncio.Event()

        def take_turn() -> None:
            self.turn += 1
            if self.turn >= len(arrivals) and not self._starts:
                ended.set()
                return
            self._loop.call_soon(take_turn)
            for _ in range(arrivals[self.turn] if self.turn < len(arrivals) else 0):
                self._arrive(self.arrived)

        self._loop.call_soon(take_turn)
        await ended.wait()
        return self.began

    def _arrive(self, request: int) -> None:
        self.arrived += 1
        self._starts.start(self._loop, lambda: self.began.append((request, self.turn)))


async def test_single_request_begins_at_once() -> None:
    assert await Turns().run(1, 0, 0, 1) == [(0, 0), (1, 3)]


async def test_burst_begins_one_in_each_turn_in_order_of_arrival() -> None:
    assert await Turns().run(4) == [(0, 0), (1, 1), (2, 2), (3, 3)]


async def test_request_does_not_pass_those_that_wait() -> None:
    assert await Turns().run(3, 1, 1) == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)]
