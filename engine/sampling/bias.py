"""`logit_bias`: values added to the scores of given tokens."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from engine.sampling.params import SamplingParams
from engine.sampling.transfer import to_device


class Bias(NamedTuple):
    """Values to add, and their distinct places in a group's flattened scores: (entries,) each."""

    places: Tensor
    values: Tensor

    @classmethod
    def of(
        cls, params: Sequence[SamplingParams], vocabulary: int, device: torch.device
    ) -> Self | None:
        """The bias of these rows, or None; ids outside the vocabulary are ignored."""
        entries = {
            row * vocabulary + token: value
            for row, row_params in enumerate(params)
            for token, value in row_params.sampling.logit_bias.items()
            if 0 <= token < vocabulary
        }
        if not entries:
            return None
        return cls(
            to_device(torch.tensor(list(entries)), device),
            to_device(torch.tensor(list(entries.values()), dtype=torch.float32), device),
        )

    def apply(self, scores: Tensor) -> None:
        """Add to scores (rows, vocabulary) in place."""
        scores.view(-1).index_add_(0, self.places, self.values)
