"""How much a request holds, at first and once its answer has outgrown that."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.hold_size import first_hold, further_hold

QUANTILES = (20.0, 40.0, 80.0, 160.0, 320.0, 400.0)


def test_a_request_holds_its_prompt_and_the_predicted_p90() -> None:
    assert first_hold(100, QUANTILES, max_tokens=1_000) == 420
    assert first_hold(100, QUANTILES, max_tokens=200) == 300


@given(st.integers(0, 999))
def test_a_grown_hold_stays_within_max_tokens(generated: int) -> None:
    assert 1 <= further_hold(QUANTILES, 1_000, generated) <= 1_000 - generated


def test_an_answer_beyond_its_prediction_holds_more_the_longer_it_is() -> None:
    assert further_hold(QUANTILES, 10_000, 320) < further_hold(QUANTILES, 10_000, 1_200)
