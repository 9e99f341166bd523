"""Masks of tokens that may not be sampled."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from engine.sampling.constraint import allowed_mask
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
        masks = [
            (row, _mask(row_params, vocabulary, device)) for row, row_params in enumerate(params)
        ]
        present = [(row, mask) for row, mask in masks if mask is not None]
        if not present:
            return None
        rows = torch.tensor([row for row, _ in present])
        return cls(to_device(rows, device), torch.stack([mask for _, mask in present]))

    def apply(self, scores: Tensor) -> None:
        """Mask tokens in scores (rows, vocabulary), in place."""
        penalty = 1 - 1 / self.allowed.float()  # 0 or -inf, without a branch per token
        scores.index_add_(0, self.rows, penalty)  # addition preserves NaN


def _mask(row_params: SamplingParams, vocabulary: int, device: torch.device) -> Tensor | None:
    """Tokens allowed by both options and constraint: (vocabulary,); None: all."""
    allowed = (
        allowed_mask(tuple(row_params.sampling.allowed), vocabulary, device)
        if row_params.sampling.allowed
        else None
    )
    if row_params.constraint is None:
        return allowed
    assert row_params.carried is None, "a constraint needs the sequence's newest token"
    constrained = row_params.constraint.allowed(row_params.generated)
    if constrained is None:
        return allowed
    constrained = to_device(constrained, device) if constrained.device != device else constrained
    return constrained if allowed is None else constrained & allowed
