"""Tokens that may not be drawn."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from engine.sampling.constraint import allowed_mask
from engine.sampling.params import SamplingParams
from engine.sampling.transfer import to_device


class Masks(NamedTuple):
    """The rows of a group that may not draw every token, and what they may."""

    rows: Tensor  # (masked,)
    allowed: Tensor  # (masked, vocabulary)

    @classmethod
    def of(
        cls, params: Sequence[SamplingParams], vocabulary: int, device: torch.device
    ) -> Self | None:
        """The masks of these rows, None without any."""
        masks = [
            (row, _mask(row_params, vocabulary, device)) for row, row_params in enumerate(params)
        ]
        some = [(row, mask) for row, mask in masks if mask is not None]
        if not some:
            return None
        rows = torch.tensor([row for row, _ in some])
        return cls(to_device(rows, device), torch.stack([mask for _, mask in some]))

    def apply(self, scores: Tensor) -> None:
        """Rule out tokens in scores (rows, vocabulary), in place."""
        ruled_out = 1 - 1 / self.allowed.float()  # 0 or -inf, and no branch for each token
        scores.index_add_(0, self.rows, ruled_out)  # adding leaves what is no number visible


def _mask(row_params: SamplingParams, vocabulary: int, device: torch.device) -> Tensor | None:
    """What options and constraint both allow: (vocabulary,), None for every token."""
    allowed = (
        allowed_mask(tuple(row_params.sampling.allowed), vocabulary, device)
        if row_params.sampling.allowed
        else None
    )
    if row_params.constraint is None:
        return allowed
    assert row_params.carried is None, "a constraint must know its sequence's newest token"
    constrained = row_params.constraint.allowed(row_params.generated)
    if constrained is None:
        return allowed
    constrained = to_device(constrained, device) if constrained.device != device else constrained
    return constrained if allowed is None else constrained & allowed
