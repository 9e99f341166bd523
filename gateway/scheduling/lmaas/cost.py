"""What a request costs an engine that takes requests in at every step, and the length for that.

There neither padding nor waiting for a batch's longest is wasted (Orca, OSDI 2022), and what
sequences compete for is KV memory over time: tokens held times steps (as in SageSched, arXiv
2603.07917), plus the time in which its prompt is computed and all others stand still.

The length is expected tokens, and more for a heavy tail: E + β·CVaR₉₀ (TIE, arXiv 2604.00499) of
the distribution that the predicted quantiles describe: linear between them, a Pareto law above the
last one that ends at max_tokens, as in `remaining`.
"""

from math import log
from typing import Final, NamedTuple

from gateway.scheduling.admission.length_distribution import LEAST_TAIL, LN2
from gateway.scheduling.requests import Quantiles, QueuedRequest

PROMPT_STEPS: Final = 16.0  # KV token-steps that computing a token of the prompt counts for
BETA: Final = 0.1
BELOW: Final = 0.75  # mean of the lengths below the 0.1 quantile, as a share of it


def joining_cost(prompt_tokens: float, generation_tokens: float) -> float:
    """KV token-steps of a request: its tokens summed over its steps, and its prompt's part."""
    growth = generation_tokens * (generation_tokens + 1) / 2
    return prompt_tokens * (generation_tokens + PROMPT_STEPS) + growth


class Risk(NamedTuple):
    """Mean length, and mean of the longest tenth, in tokens."""

    mean: float
    worst_tenth: float


def risk_of(quantiles: Quantiles, max_tokens: int) -> Risk:
    """Mean and CVaR₉₀ of a length."""
    low, lower, middle, upper, high, highest = quantiles
    tail = _mean_beyond(high, highest, max_tokens)
    worst = 0.025 * (high + highest) + 0.05 * tail
    body = (
        0.1 * BELOW * low
        + 0.075 * (low + lower)
        + 0.125 * (lower + middle)
        + 0.125 * (middle + upper)
        + 0.075 * (upper + high)
    )
    return Risk(max(body + worst, 1.0), max(worst / 0.1, 1.0))


def _mean_beyond(high: float, highest: float, max_tokens: int) -> float:
    """E[min(N, max_tokens) | N > 0.95 quantile]: the tail halves between the last two quantiles."""
    if highest >= max_tokens:
        return float(max_tokens)
    power = LN2 / max(log(highest / high), LEAST_TAIL)
    reach = log(max_tokens / highest)
    if abs(power - 1) < 1e-9:  # noqa: PLR2004 - where the quotient is 0/0
        return highest * (1 + reach)
    grown: float = highest * (1 + (1 - (highest / max_tokens) ** (power - 1)) / (power - 1))
    return grown


def risk_adjusted(request: QueuedRequest, beta: float = BETA) -> float:
    """E + β·CVaR₉₀ of a request's generation, in tokens."""
    mean, worst = risk_of(request.quantiles, request.max_tokens)
    return mean + beta * worst
