"""The future peak of reservations against a simulation of every step."""

from hypothesis import given
from hypothesis import strategies as st

from engine.kv.reservations import Claim, last_pages, peak_pages

claims = st.builds(
    lambda tokens, remaining, shared: Claim(tokens, remaining, min(shared, tokens // 16)),
    st.integers(1, 60),
    st.integers(0, 40),
    st.integers(0, 3),
)


def pages_at(step: int, running: list[Claim], page_tokens: int) -> int:
    """Pages held after so many steps: each has grown a token a step, and left after its last."""
    return sum(
        -(-(claim.tokens + step) // page_tokens) - claim.shared
        for claim in running
        if step <= claim.remaining
    )


@given(st.lists(claims, max_size=8), st.sampled_from([4, 7, 16]))
def test_the_peak_is_the_worst_step_of_a_full_run(running: list[Claim], page_tokens: int) -> None:
    worst = max(pages_at(step, running, page_tokens) for step in range(42))
    assert peak_pages(running, page_tokens) == worst


@given(st.lists(claims, min_size=1, max_size=8))
def test_the_peak_is_never_above_what_all_hold_at_their_ends(running: list[Claim]) -> None:
    assert peak_pages(running, 4) <= sum(last_pages(claim, 4) for claim in running)


def test_memory_one_gives_back_is_what_another_grows_into() -> None:
    leaving, growing = Claim(tokens=40, remaining=0), Claim(tokens=8, remaining=32)
    assert peak_pages([leaving, growing], 4) == 12
    assert last_pages(leaving, 4) + last_pages(growing, 4) == 20
