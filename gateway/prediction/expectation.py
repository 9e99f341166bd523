"""Expected length and expected log length from predicted quantiles."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from gateway.quantiles import Floats

# Probability mass that each of `LEVELS` represents: up to the midpoints between neighbours. In
# tokens 0.95 represents its own tail; for logarithms the outer levels are weighted symmetrically.
TOKEN_SHARES: Final = np.array([0.175, 0.2, 0.25, 0.2, 0.1, 0.075])
LOG_SHARES: Final = np.array([0.175, 0.2, 0.25, 0.2, 0.175, 0.0])


def expected_tokens(quantiles: Floats) -> Floats:
    """Expected tokens, (n,), from quantiles in tokens, (n, len(LEVELS))."""
    mean: Floats = quantiles @ TOKEN_SHARES
    return mean


def limited_mean(mean: float, quantiles: Sequence[float], limit: float) -> float:
    """The expected tokens of an answer that is cut off at `limit`, from those without a limit.

    The mean is lowered by the factor by which the limit lowers `expected_tokens` of its quantiles.
    """
    if quantiles[-1] <= limit:
        return min(mean, limit)
    weighted = list(zip(TOKEN_SHARES.tolist(), quantiles, strict=True))
    natural = sum(share * tokens for share, tokens in weighted)
    limited = sum(share * min(tokens, limit) for share, tokens in weighted)
    return min(mean * limited / natural, limit)


def expected_log(quantiles: Floats) -> Floats:
    """Expected log(1 + tokens), (n,), from quantiles in tokens, (n, len(LEVELS))."""
    mean: Floats = np.log1p(quantiles) @ LOG_SHARES
    return mean
