"""Multinomial sampling with integer weights.

Integer sums are exact in any order, so a row's token does not depend on the other rows, on the
number of threads, or on the order in which a device adds.
"""

from collections.abc import Sequence
from math import ceil
from typing import Final, NamedTuple, Self

import torch
from torch import Tensor

from engine.sampling.params import SamplingParams
from engine.sampling.randomness import uniforms
from engine.sampling.transfer import column, to_device

# Its weight is 0, as that of all below; where exp underflows, it takes a CPU ten times as long.
LOWEST: Final = -80.0


class Multinomial(NamedTuple):
    """Samples the rows of a group by weight; every tensor is (rows, 1).

    A weight is exp((score - highest) / temperature) * 2**bits, such that a whole vocabulary adds up
    to at most 2**62. Weights under `min_weight` count as 0 (min_p, arXiv 2407.01082).
    """

    temperature: Tensor  # float32
    uniform: Tensor  # float64 in [0, 1)
    min_weight: Tensor | None  # int64
    bits: int

    @classmethod
    def of(cls, params: Sequence[SamplingParams], vocabulary: int, device: torch.device) -> Self:
        """The sampler for these rows."""
        bits = 62 - (vocabulary - 1).bit_length()
        uniform = uniforms([p.sampling.seed for p in params], [p.position for p in params])
        min_weight = [ceil(p.sampling.min_p * 2**bits) for p in params]
        return cls(
            column([p.sampling.temperature for p in params], torch.float32, device),
            to_device(torch.from_numpy(uniform)[:, None], device),
            column(min_weight, torch.int64, device) if any(min_weight) else None,
            bits,
        )

    def weights(self, scores: Tensor, highest: Tensor) -> Tensor:
        """Scores (rows, n) as weights of the same shape; all 0 if the highest is not finite."""
        scaled = (scores - highest[:, None]).div_(self.temperature).clamp_(min=LOWEST)
        return scaled.exp_().mul_(2.0**self.bits).nan_to_num_(0.0).long()

    def sample(self, weights: Tensor) -> Tensor:
        """Sample an index per row by inverse transform sampling: (rows, n) gives (rows, 1)."""
        if self.min_weight is not None:
            weights = weights * (
                weights >= self.min_weight
            )  # on a CPU much faster than masked_fill
        cumulative = weights.cumsum(-1)
        total = cumulative[:, -1:]
        target = (self.uniform * total.double()).long().minimum(total - 1)
        return torch.searchsorted(cumulative, target, right=True).clamp_(max=weights.shape[-1] - 1)
