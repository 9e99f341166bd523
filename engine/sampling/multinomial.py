"""One token by weight, in whole numbers.

Sums of whole numbers are exact in any order. So what a row draws depends neither on the rows
beside it nor on threads, nor on the order in which a device happens to add.
"""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple, Self

import torch
from torch import Tensor

from engine.sampling.params import SamplingParams
from engine.sampling.randomness import uniforms
from engine.sampling.transfer import column, to_device


class Multinomial(NamedTuple):
    """How the rows of a group draw by weight; every tensor is (rows, 1).

    A weight is exp((score - highest) / temperature) times 2**bits, so that a vocabulary of them
    adds up to 2**62 at most. Weights under `min_weight` draw nothing (min_p, arXiv 2407.01082).
    """

    temperature: Tensor  # float32
    uniform: Tensor  # float64 in [0, 1)
    min_weight: Tensor | None  # int64
    bits: int

    @classmethod
    def of(cls, params: Sequence[SamplingParams], vocabulary: int, device: torch.device) -> Self:
        """The lottery of these rows."""
        bits = 62 - (vocabulary - 1).bit_length()
        uniform = uniforms([d.sampling.seed for d in params], [d.position for d in params])
        min_weight = [ceil(d.sampling.min_p * 2**bits) for d in params]
        return cls(
            column([d.sampling.temperature for d in params], torch.float32, device),
            to_device(torch.from_numpy(uniform)[:, None], device),
            column(min_weight, torch.int64, device) if any(min_weight) else None,
            bits,
        )

    def weights(self, scores: Tensor, highest: Tensor) -> Tensor:
        """Scores (rows, n) as weights of the same shape; all 0 where the highest is no number."""
        scaled = (scores - highest[:, None]).div_(self.temperature)
        return scaled.exp_().mul_(2.0**self.bits).nan_to_num_(0.0).long()

    def sample(self, weights: Tensor) -> Tensor:
        """The index each row draws, by inverse transform sampling: (rows, n) gives (rows, 1)."""
        if self.min_weight is not None:
            weights = weights * (weights >= self.min_weight)  # a CPU fills masks far more slowly
        cumulative = weights.cumsum(-1)
        total = cumulative[:, -1:]
        target = (self.uniform * total.double()).long().minimum(total - 1)
        return torch.searchsorted(cumulative, target, right=True).clamp_(max=weights.shape[-1] - 1)
