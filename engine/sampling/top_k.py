"""The likeliest tokens of a row, without sorting it.

Selecting by the digits of a number, as radix sort does (Alabi et al., JEA 17, 2012), reads a row
three times; sorting 131072 scores takes a CPU five times as long.
"""

from typing import Final

import torch
from torch import Tensor

DIGITS: Final = ((21, 11), (10, 11), (0, 10))  # of a rank: lowest bit, bits


def ranks(scores: Tensor) -> Tensor:
    """Scores (float32) as whole numbers in 0 … 2**32-1, the highest score's the lowest."""
    bits = (scores + 0.0).view(torch.int32)  # adding 0.0 makes -0.0 equal 0.0
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # IEEE 754: negative numbers count backwards
    return 0x7FFFFFFF - rising.long()


def leading_mask(rank: Tensor, weights: Tensor, target_weight: Tensor) -> Tensor:
    """Whether each token is among the first of its row that bring their amounts to `target_weight`.

    The first are those of lowest rank, among equals those of lowest id. Ranks and amounts are
    (rows, vocabulary), `target_weight` is (rows, 1), at least 1 and at most a row's sum. Equal ranks
    have equal amounts.
    """
    start = torch.zeros_like(target_weight)  # the lowest rank that may be the last wanted one
    for low, bits in DIGITS:
        slot = (rank >> low).sub_(start >> low).clamp_(-1, 1 << bits).add_(1)
        slots = weights.new_zeros(len(rank), (1 << bits) + 2)  # the first: all that lies before
        cumulative = slots.scatter_add_(1, slot, weights).cumsum_(-1)
        place = torch.searchsorted(cumulative, target_weight).clamp_(1, 1 << bits)
        start = start + (place - 1 << low)
    equals = weights * (rank == start)
    reached = equals.cumsum(-1).sub_(equals).add_(cumulative.gather(-1, place - 1))
    return (rank < start) | ((rank == start) & (reached < target_weight))
