"""How many sequences a server is given at once."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.engines.upstream.concurrency import PATIENCE_S, WINDOW_S, ConcurrencyLimit, queued


class Server:
    """Runs `capacity` sequences at once; observed after each step of a tenth of a second."""

    def __init__(self, capacity: int, limit: ConcurrencyLimit) -> None:
        self.capacity = capacity
        self.limit = limit
        self.now_s = 0.0

    def observe(self, offered: int, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += 0.1
            given = min(offered, self.limit.limit)
            running = min(given, self.capacity)
            waited_s = seconds if given > running else 0.0
            self.limit.observe(self.now_s, running, waited_s)


@given(st.integers(1, 300), st.integers(1, 300))
def test_limit_is_what_runs_and_a_short_queue(capacity: int, later: int) -> None:
    server = Server(capacity, ConcurrencyLimit())
    for capacity_now in (capacity, later):
        server.capacity = capacity_now
        server.observe(1000, PATIENCE_S + 2 * WINDOW_S + 10.0)
        assert server.limit.running == capacity_now
        assert server.limit.limit == capacity_now + queued(capacity_now)


def test_limit_stays_while_little_is_offered() -> None:
    server = Server(32, ConcurrencyLimit())
    server.observe(1000, 10.0)
    server.observe(1, 60.0)
    assert server.limit.limit == 36


def test_known_number_is_not_learned() -> None:
    server = Server(3, ConcurrencyLimit(8))
    server.observe(1000, 60.0)
    assert server.limit.limit == 12


def test_refusal_lowers_the_limit_to_what_was_accepted() -> None:
    limit = ConcurrencyLimit()
    limit.observe(0.0, 32, 0.0)
    limit.refused(20)
    assert limit.limit == 20
    limit.refused(0)
    assert limit.limit == 5
