"""The cost of a request against the KV tokens held in each step."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.lmaas.cost import STEPS_PER_PROMPT_TOKEN, request_cost

prompts = st.integers(0, 3_000)
generations = st.integers(1, 300)


@given(prompts, generations)
def test_cost_is_the_tokens_held_per_step_plus_prompt_computation(
    prompt: int, generation: int
) -> None:
    held = sum(prompt + step for step in range(1, generation + 1))
    assert request_cost(prompt, generation) == held + STEPS_PER_PROMPT_TOKEN * prompt


@given(prompts, generations, st.floats(0, 50), st.floats(0, 50))
def test_cost_grows_with_both_lengths(
    prompt: int, generation: int, more_prompt: float, more: float
) -> None:
    usual = request_cost(prompt, generation)
    assert 0 < usual <= request_cost(prompt + more_prompt, generation + more)


def test_long_prompt_is_costly_even_with_a_short_answer() -> None:
    assert request_cost(2_000, 1) > 15 * request_cost(100, 4)
