from hypothesis import given
from hypothesis import strategies as st

from gateway.prediction.ring_buffer import REFRESH_DIVISOR, RingBuffer


@given(st.lists(st.tuples(st.integers(0, 99), st.booleans())), st.integers(1, 7))
def test_buffer_holds_the_newest_values(added: list[tuple[int, bool]], size: int) -> None:
    ring = RingBuffer(size)
    for value, censored in added:
        ring.add(value, censored=censored)
    values, marked_censored = ring.values()
    assert sorted(zip(values.tolist(), marked_censored.tolist(), strict=True)) == sorted(
        added[-size:]
    )
    assert ring.total == len(added)


def test_refresh_is_due_after_a_share_of_new_values() -> None:
    ring = RingBuffer(4 * REFRESH_DIVISOR)
    for _ in range(4 * REFRESH_DIVISOR):
        ring.add(1.0)
    assert ring.needs_refresh()
    assert not ring.needs_refresh()
    for _ in range(4):
        ring.add(2.0)
    assert not ring.needs_refresh()
    ring.add(2.0)
    assert ring.needs_refresh()
