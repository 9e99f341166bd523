"""Log probabilities of drawn tokens, and of the likeliest.

They are the model's own: of its scores before bias, penalties, masks and temperature.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Self

import torch
from torch import Tensor

from engine.sampling.draw import Draw
from engine.sampling.transfer import to_device

MOST: Final = 20  # the protocol's bound on likeliest tokens


class Wanted(NamedTuple):
    """The rows that want log probabilities, and of how many likeliest tokens each."""

    rows: Tensor  # (wanting,)
    counts: dict[int, int]  # by row

    @classmethod
    def of(cls, draws: Sequence[Draw], device: torch.device) -> Self | None:
        """What these rows want, None for nothing."""
        asked = [(row, draw.sampling.logprobs) for row, draw in enumerate(draws)]
        counts = {row: count for row, count in asked if count is not None}
        return cls(to_device(torch.tensor(list(counts)), device), counts) if counts else None


class Logprobs(NamedTuple):
    """Log probabilities of the rows that want them."""

    drawn: Tensor  # (wanting,)
    top: Tensor  # (wanting, listed), falling
    ids: Tensor  # (wanting, listed)


def logprobs(logits: Tensor, tokens: Tensor, wanted: Wanted) -> Logprobs:
    """Log probabilities under logits (rows, vocabulary), of tokens (rows,)."""
    scores = logits[wanted.rows].float().log_softmax(-1)
    listed = min(MOST, scores.shape[-1]) if any(wanted.counts.values()) else 0
    top, ids = scores.topk(listed)
    return Logprobs(scores.gather(-1, tokens[wanted.rows, None])[:, 0], top, ids)
