"""Masks of tokens that may not be sampled."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Self

import torch
from torch import Tensor

from engine.sampling.params import SamplingParams
from engine.sampling.transfer import to_device


class Masks(NamedTuple):
    """The rows of a group with a limited set of tokens, and these sets."""

    rows: Tensor  # (masked,)
    allowed: Tensor  # (masked, vocabulary)

    @classmethod
    def of(
        cls, params: Sequence[SamplingParams], vocabulary: int, device: torch.device
    ) -> Self | None:
        """The masks of these rows, or None."""
        present = [
            (row, allowed_mask(tuple(row_params.sampling.allowed), vocabulary, device))
            for row, row_params in enumerate(params)
            if row_params.sampling.allowed
        ]
        if not present:
            return None
        rows = torch.tensor([row for row, _ in present])
        return cls(to_device(rows, device), torch.stack([mask for _, mask in present]))

    def apply(self, scores: Tensor) -> None:
        """Mask tokens in scores (rows, vocabulary), in place."""
        penalty = 1 - 1 / self.allowed.float()  # 0 or -inf, without a branch per token
        scores.index_add_(0, self.rows, penalty)  # addition preserves NaN


@lru_cache(maxsize=64)
def allowed_mask(ids: tuple[int, ...], vocabulary: int, device: torch.device) -> Tensor:
    """True for these tokens: (vocabulary,) booleans; ids outside the vocabulary are ignored."""
    mask = torch.zeros(vocabulary, dtype=torch.bool)
    mask[[token for token in ids if 0 <= token < vocabulary]] = True
    return to_device(mask, device)
