"""Constraints on the next token."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from engine.sampling.transfer import to_device


class Constraint(Protocol):
    """Determines which tokens may follow from the tokens generated so far."""

    def allowed(self, generated: Sequence[int]) -> Tensor | None:
        """True for each token that may follow: (vocabulary,) booleans; None: all."""


@lru_cache(maxsize=64)
def allowed_mask(ids: tuple[int, ...], vocabulary: int, device: torch.device) -> Tensor:
    """True for these tokens: (vocabulary,) booleans; ids outside the vocabulary are ignored."""
    mask = torch.zeros(vocabulary, dtype=torch.bool)
    mask[[token for token in ids if 0 <= token < vocabulary]] = True
    return to_device(mask, device)
