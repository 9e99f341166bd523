"""The future KV peak of known lengths against running them step by step."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.peak import Held, future_peak, held_at_upper
from gateway.scheduling.waiting import Running

HORIZON = 40
helds = st.builds(Held, held=st.integers(0, 50), remaining=st.integers(0, HORIZON))


def tokens_at(step: int, running: list[Held]) -> int:
    return sum(seq.held + step for seq in running if step <= seq.remaining)


@given(st.lists(helds, max_size=8))
def test_future_peak_is_the_worst_step_of_a_full_run(running: list[Held]) -> None:
    worst = max(tokens_at(step, running) for step in range(HORIZON + 1))
    assert future_peak(running) == worst


def test_sequences_count_to_their_upper_quantile(a_sequence: Callable[..., Running]) -> None:
    quantiles = (10.0, 20.0, 40.0, 60.0, 80.0, 90.0)
    fresh = a_sequence(100, quantiles=quantiles)
    overdue = a_sequence(100, quantiles=quantiles, generated=120, max_tokens=150)
    now, late = held_at_upper([fresh, overdue])
    assert now == Held(100, 80)
    assert late.held == 220
    assert 1 <= late.remaining <= 30
