"""The future peak of reservations against a step-by-step simulation."""

from hypothesis import given
from hypothesis import strategies as st

from engine.kv.reservations import KvReservation, final_pages, peak_pages

reservations = st.builds(
    lambda tokens, remaining, shared: KvReservation(tokens, remaining, min(shared, tokens // 16)),
    st.integers(1, 60),
    st.integers(0, 40),
    st.integers(0, 3),
)


def pages_at(step: int, running: list[KvReservation], page_tokens: int) -> int:
    """Pages held after `step` steps; each sequence grows a token per step and leaves at its end."""
    return sum(
        -(-(reservation.tokens + step) // page_tokens) - reservation.shared
        for reservation in running
        if step <= reservation.remaining
    )


@given(st.lists(reservations, max_size=8), st.sampled_from([4, 7, 16]))
def test_the_peak_is_the_largest_use_of_a_full_run(
    running: list[KvReservation], page_tokens: int
) -> None:
    peak = max(pages_at(step, running, page_tokens) for step in range(42))
    assert peak_pages(running, page_tokens) == peak


@given(st.lists(reservations, min_size=1, max_size=8))
def test_the_peak_is_never_above_what_all_hold_at_their_ends(running: list[KvReservation]) -> None:
    assert peak_pages(running, 4) <= sum(final_pages(reservation, 4) for reservation in running)


def test_a_sequence_grows_into_memory_that_another_frees() -> None:
    leaving, growing = KvReservation(tokens=40, remaining=0), KvReservation(tokens=8, remaining=32)
    assert peak_pages([leaving, growing], 4) == 12
    assert final_pages(leaving, 4) + final_pages(growing, 4) == 20
