"""The cost of a request under continuous batching, and the expected length that it is based on.

Continuous batching wastes neither padding nor idle slots (Orca, OSDI 2022), so sequences compete
for KV memory over time: tokens held times steps (as in SageSched, arXiv 2603.07917). Computing the
prompt, which stalls all other sequences, is added as further token-steps.

The length is E + β·CVaR₉₀ (TIE, arXiv 2604.00499): the mean, raised for a heavy tail by a fraction
β of the mean of the longest tenth. Its distribution is linear between the predicted quantiles, with
a Pareto tail above the last one, cut at max_tokens, as in `length_distribution`.
"""

from math import log
from typing import Final, NamedTuple

from gateway.scheduling.admission.length_distribution import LN2, MIN_TAIL_HALVING
from gateway.scheduling.requests import Quantiles, QueuedRequest

STEPS_PER_PROMPT_TOKEN: Final = 16.0  # KV token-steps for computing a token of the prompt
CVAR_WEIGHT: Final = 0.1  # β
MEAN_BELOW_P10: Final = 0.75  # mean length below the 0.1 quantile, relative to it


def request_cost(prompt_tokens: float, generation_tokens: float) -> float:
    """KV token-steps of a request: tokens held, summed over its steps, and prompt computation."""
    growth = generation_tokens * (generation_tokens + 1) / 2
    return prompt_tokens * (generation_tokens + STEPS_PER_PROMPT_TOKEN) + growth


class ExpectedLength(NamedTuple):
    """The mean of a length, and its CVaR₉₀: the mean of the longest tenth. In tokens."""

    mean: float
    cvar_90: float


def expected_length(quantiles: Quantiles, max_tokens: int) -> ExpectedLength:
    """Mean and CVaR₉₀ of a length with these predicted quantiles."""
    low, lower, middle, upper, high, highest = quantiles
    tail = _mean_beyond(high, highest, max_tokens)
    worst = 0.025 * (high + highest) + 0.05 * tail
    body = (
        0.1 * MEAN_BELOW_P10 * low
        + 0.075 * (low + lower)
        + 0.125 * (lower + middle)
        + 0.125 * (middle + upper)
        + 0.075 * (upper + high)
    )
    return ExpectedLength(max(body + worst, 1.0), max(worst / 0.1, 1.0))


def _mean_beyond(high: float, highest: float, max_tokens: int) -> float:
    """E[min(N, max_tokens) | N > 0.95 quantile]; the tail halves between the last two quantiles."""
    if highest >= max_tokens:
        return float(max_tokens)
    power = LN2 / max(log(highest / high), MIN_TAIL_HALVING)
    reach = log(max_tokens / highest)
    if abs(power - 1) < 1e-9:  # noqa: PLR2004 - where the quotient is 0/0
        return highest * (1 + reach)
    grown: float = highest * (1 + (1 - (highest / max_tokens) ** (power - 1)) / (power - 1))
    return grown


def risk_adjusted_length(request: QueuedRequest, beta: float = CVAR_WEIGHT) -> float:
    """E + β·CVaR₉₀ of a request's generation length, in tokens."""
    mean, worst = expected_length(request.quantiles, request.max_tokens)
    return mean + beta * worst
