"""Log probabilities of drawn tokens, and of the likeliest.

They are the model's own: of its scores before bias, penalties, masks and temperature.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Self

import torch
from torch import Tensor

from engine.sampling.params import SamplingParams
from engine.sampling.transfer import to_device

MAX_TOP_LOGPROBS: Final = 20  # the protocol's bound on likeliest tokens


class LogprobRequests(NamedTuple):
    """The rows that want log probabilities, and of how many likeliest tokens each."""

    rows: Tensor  # (wanting,)
    counts: dict[int, int]  # by row

    @classmethod
    def of(cls, params: Sequence[SamplingParams], device: torch.device) -> Self | None:
        """What these rows want, None for nothing."""
        asked = [(row, row_params.sampling.logprobs) for row, row_params in enumerate(params)]
        counts = {row: count for row, count in asked if count is not None}
        return cls(to_device(torch.tensor(list(counts)), device), counts) if counts else None


class Logprobs(NamedTuple):
    """Log probabilities of the rows that want them."""

    drawn: Tensor  # (wanting,)
    top: Tensor  # (wanting, listed), falling
    ids: Tensor  # (wanting, listed)


def logprobs(logits: Tensor, tokens: Tensor, logprob_requests: LogprobRequests) -> Logprobs:
    """Log probabilities under logits (rows, vocabulary), of tokens (rows,)."""
    scores = logits[logprob_requests.rows].float().log_softmax(-1)
    listed = min(MAX_TOP_LOGPROBS, scores.shape[-1]) if any(logprob_requests.counts.values()) else 0
    top, ids = scores.topk(listed)
    return Logprobs(scores.gather(-1, tokens[logprob_requests.rows, None])[:, 0], top, ids)
