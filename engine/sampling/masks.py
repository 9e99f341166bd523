"""Tokens that may not be drawn."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from engine.sampling.constraint import only
from engine.sampling.draw import Draw
from engine.sampling.transfer import to_device


class Masks(NamedTuple):
    """The rows of a group that may not draw every token, and what they may."""

    rows: Tensor  # (masked,)
    allowed: Tensor  # (masked, vocabulary)

    @classmethod
    def of(cls, draws: Sequence[Draw], vocabulary: int, device: torch.device) -> Self | None:
        """The masks of these rows, None without any."""
        masks = [(row, _mask(draw, vocabulary, device)) for row, draw in enumerate(draws)]
        some = [(row, mask) for row, mask in masks if mask is not None]
        if not some:
            return None
        rows = torch.tensor([row for row, _ in some])
        return cls(to_device(rows, device), torch.stack([mask for _, mask in some]))

    def apply(self, scores: Tensor) -> None:
        """Rule out tokens in scores (rows, vocabulary), in place."""
        ruled_out = 1 - 1 / self.allowed.float()  # 0 or -inf, and no branch for each token
        scores.index_add_(0, self.rows, ruled_out)  # adding leaves what is no number visible


def _mask(draw: Draw, vocabulary: int, device: torch.device) -> Tensor | None:
    """What options and constraint both allow: (vocabulary,), None for every token."""
    named = (
        only(tuple(draw.sampling.allowed), vocabulary, device) if draw.sampling.allowed else None
    )
    if draw.constraint is None:
        return named
    assert draw.carried is None, "a constraint must know its sequence's newest token"
    follows = draw.constraint.allowed(draw.generated)
    if follows is None:
        return named
    follows = to_device(follows, device) if follows.device != device else follows
    return follows if named is None else follows & named
