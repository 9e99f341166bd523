"""How many tokens a request holds: its prompt, and what its answer is predicted not to exceed."""

from math import ceil
from typing import Final

import numpy as np

from gateway.quantiles import LEVELS, P90
from gateway.scheduling.admission.length_distribution import LengthDistributions
from gateway.scheduling.requests import Quantiles

LEVEL: Final = LEVELS[P90]


def first_hold(prompt_tokens: int, quantiles: Quantiles, max_tokens: int) -> int:
    """The tokens to hold for a request before its answer: its prompt and the predicted P90."""
    return prompt_tokens + min(max(ceil(quantiles[P90]), 1), max_tokens)


def further_hold(quantiles: Quantiles, max_tokens: int, generated: int) -> int:
    """The tokens to hold in addition once an answer has outgrown its hold.

    They are the P90 of what remains of an answer that has not ended after `generated` tokens.
    """
    lengths = LengthDistributions.of_quantiles(
        np.array([quantiles], dtype=np.float64),
        np.array([max_tokens], dtype=np.float64),
        np.array([generated], dtype=np.float64),
    )
    remaining = ceil(float(lengths.remaining_quantile(LEVEL)[0]))
    return max(min(remaining, max_tokens - generated), 0)
