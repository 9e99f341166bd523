"""The parts of a request's time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.generation.insight.times import request_times

seconds = st.floats(0, 100)


@given(seconds, *[st.none() | seconds] * 3)
def test_the_parts_add_up_to_the_whole(
    response_s: float,
    queued_s: float | None,
    first_token_s: float | None,
    preempted_s: float | None,
) -> None:
    found = request_times(
        response_s, queued_s=queued_s, first_token_s=first_token_s, preempted_s=preempted_s
    )
    assert found.total_s == pytest.approx(response_s)
    assert min(found.waited_s, found.prefill_s, found.running_s, found.preempted_s) >= -1e-9


def test_preempted_time_is_in_no_other_part() -> None:
    found = request_times(10.0, queued_s=2.0, first_token_s=3.0, preempted_s=4.0)
    assert (found.waited_s, found.prefill_s, found.running_s, found.preempted_s) == (2, 1, 3, 4)
