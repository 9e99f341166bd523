"""What options do to scores before a token is chosen."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from engine.sampling.bias import Bias
from engine.sampling.draw import Draw
from engine.sampling.masks import Masks
from engine.sampling.penalties import Penalties, penalised


def edited(draw: Draw) -> bool:
    """Whether options or a constraint change a row's scores."""
    sampling = draw.sampling
    return (
        draw.constraint is not None
        or penalised(sampling)
        or bool(sampling.logit_bias)
        or bool(sampling.allowed)
    )


class Edits(NamedTuple):
    """The changes to the scores of a group, in their order."""

    bias: Bias | None
    penalties: Penalties | None
    masks: Masks | None

    @classmethod
    def of(cls, draws: Sequence[Draw], vocabulary: int, device: torch.device) -> Self:
        """The changes that these rows ask for."""
        asked = draws, vocabulary, device
        return cls(Bias.of(*asked), Penalties.of(*asked), Masks.of(*asked))

    def apply(self, scores: Tensor, previous: Tensor | None) -> None:
        """Change scores (rows, vocabulary) in place; `previous` are the last step's tokens."""
        if self.bias is not None:
            self.bias.apply(scores)
        if self.penalties is not None:
            self.penalties.apply(scores, previous)
        if self.masks is not None:
            self.masks.apply(scores)
