"""One token by weight, in whole numbers.

Sums of whole numbers are exact in any order. So what a row draws depends neither on the rows
beside it nor on threads, nor on the order in which a device happens to add.
"""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple, Self

import torch
from torch import Tensor

from engine.sampling.draw import Draw
from engine.sampling.randomness import uniforms
from engine.sampling.transfer import column, to_device


class Lottery(NamedTuple):
    """How the rows of a group draw by weight; every tensor is (rows, 1).

    A weight is exp((score - highest) / temperature) times 2**bits, so that a vocabulary of them
    adds up to 2**62 at most. Weights under `least` draw nothing (min_p, arXiv 2407.01082).
    """

    temperature: Tensor  # float32
    chance: Tensor  # float64 in [0, 1)
    least: Tensor | None  # int64
    bits: int

    @classmethod
    def of(cls, draws: Sequence[Draw], vocabulary: int, device: torch.device) -> Self:
        """The lottery of these rows."""
        bits = 62 - (vocabulary - 1).bit_length()
        chance = uniforms([d.sampling.seed for d in draws], [d.position for d in draws])
        least = [ceil(d.sampling.min_p * 2**bits) for d in draws]
        return cls(
            column([d.sampling.temperature for d in draws], torch.float32, device),
            to_device(torch.from_numpy(chance)[:, None], device),
            column(least, torch.int64, device) if any(least) else None,
            bits,
        )

    def weights(self, scores: Tensor, highest: Tensor) -> Tensor:
        """Scores (rows, n) as weights of the same shape; all 0 where the highest is no number."""
        heights = (scores - highest[:, None]).div_(self.temperature)
        return heights.exp_().mul_(2.0**self.bits).nan_to_num_(0.0).long()

    def draw(self, weights: Tensor) -> Tensor:
        """The index each row draws, by inverse transform sampling: (rows, n) gives (rows, 1)."""
        if self.least is not None:
            weights = weights * (weights >= self.least)  # a CPU fills masks far more slowly
        upto = weights.cumsum(-1)
        total = upto[:, -1:]
        ticket = (self.chance * total.double()).long().minimum(total - 1)
        return torch.searchsorted(upto, ticket, right=True).clamp_(max=weights.shape[-1] - 1)
