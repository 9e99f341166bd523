"""What is told from a request's quantiles: the expected length, and the expected logarithm."""

from typing import Final

import numpy as np

from gateway.quantiles import Floats

# Shares of the distribution that each of `LEVELS` stands for: up to the middle between neighbours.
# A long tail weighs in tokens; in logarithms the outermost levels stand for as much on both sides.
TOKEN_SHARES: Final = np.array([0.175, 0.2, 0.25, 0.2, 0.1, 0.075])
LOG_SHARES: Final = np.array([0.175, 0.2, 0.25, 0.2, 0.175, 0.0])


def expected_tokens(quantiles: Floats) -> Floats:
    """The mean of tokens (n,) from quantiles in tokens (n, len(LEVELS))."""
    mean: Floats = quantiles @ TOKEN_SHARES
    return mean


def expected_log(quantiles: Floats) -> Floats:
    """The mean of log(1 + tokens) (n,) from quantiles in tokens (n, len(LEVELS))."""
    mean: Floats = np.log1p(quantiles) @ LOG_SHARES
    return mean
