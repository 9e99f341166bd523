"""Selects the likeliest tokens of a row without sorting it.

Radix selection (Alabi et al., JEA 17, 2012) reads a row three times; on a CPU, sorting 131072
scores takes five times as long.
"""

from typing import Final

import torch
from torch import Tensor

DIGITS: Final = ((21, 11), (10, 11), (0, 10))  # of a rank: lowest bit, bits


def ranks(scores: Tensor) -> Tensor:
    """Scores (float32) as integers in 0 … 2**32-1; the highest score gets the lowest rank."""
    bits = (scores + 0.0).view(torch.int32)  # adding 0.0 makes -0.0 equal 0.0
    rising = bits ^ (
        (bits >> 31) & 0x7FFFFFFF
    )  # IEEE 754: the bits of negative numbers order in reverse
    return 0x7FFFFFFF - rising.long()


def leading_mask(rank: Tensor, weights: Tensor, target_weight: Tensor) -> Tensor:
    """True for each row's first tokens, up to the one that reaches `target_weight` in total.

    Tokens are ordered by rank, equal ranks by id. Ranks and weights are (rows, vocabulary),
    `target_weight` is (rows, 1), at least 1 and at most a row's sum. Equal ranks must have equal
    weights.
    """
    start = torch.zeros_like(target_weight)  # lowest rank that the last selected token may have
    for low, bits in DIGITS:
        slot = (rank >> low).sub_(start >> low).clamp_(-1, 1 << bits).add_(1)
        slots = weights.new_zeros(len(rank), (1 << bits) + 2)  # the first slot: all lower ranks
        cumulative = slots.scatter_add_(1, slot, weights).cumsum_(-1)
        place = torch.searchsorted(cumulative, target_weight).clamp_(1, 1 << bits)
        start = start + (place - 1 << low)
    equals = weights * (rank == start)
    reached = equals.cumsum(-1).sub_(equals).add_(cumulative.gather(-1, place - 1))
    return (rank < start) | ((rank == start) & (reached < target_weight))
