from hypothesis import given
from hypothesis import strategies as st

from gateway.prediction.ring_buffer import REFRESH_DIVISOR, RingBuffer


@given(st.lists(st.tuples(st.integers(0, 99), st.booleans())), st.integers(1, 7))
def test_window_holds_the_newest_values(added: list[tuple[int, bool]], size: int) -> None:
    window = RingBuffer(size)
    for value, censored in added:
        window.add(value, censored=censored)
    values, marks = window.values()
    assert sorted(zip(values.tolist(), marks.tolist(), strict=True)) == sorted(added[-size:])
    assert window.total == len(added)


def test_what_is_derived_is_renewed_after_a_share_of_new_values() -> None:
    window = RingBuffer(4 * REFRESH_DIVISOR)
    for _ in range(4 * REFRESH_DIVISOR):
        window.add(1.0)
    assert window.stale()
    assert not window.stale()
    for _ in range(4):
        window.add(2.0)
    assert not window.stale()
    window.add(2.0)
    assert window.stale()
