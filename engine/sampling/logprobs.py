"""Log probabilities of the sampled and the likeliest tokens.

They are computed from the model's scores before bias, penalties, masks and temperature.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Self

import torch
from torch import Tensor

from engine.sampling.params import SamplingParams
from engine.sampling.transfer import to_device

MAX_TOP_LOGPROBS: Final = 20  # the protocol's limit


class LogprobRequests(NamedTuple):
    """The rows that request log probabilities, and the number of likeliest tokens for each."""

    rows: Tensor  # (requesting,)
    counts: dict[int, int]  # by row

    @classmethod
    def of(cls, params: Sequence[SamplingParams], device: torch.device) -> Self | None:
        """The requests of these rows, or None."""
        requested = [(row, row_params.sampling.logprobs) for row, row_params in enumerate(params)]
        counts = {row: count for row, count in requested if count is not None}
        return cls(to_device(torch.tensor(list(counts)), device), counts) if counts else None


class Logprobs(NamedTuple):
    """Log probabilities of the rows that request them."""

    sampled: Tensor  # (requesting,)
    top: Tensor  # (requesting, listed), descending
    ids: Tensor  # (requesting, listed)


def logprobs(logits: Tensor, tokens: Tensor, logprob_requests: LogprobRequests) -> Logprobs:
    """Log probabilities of tokens (rows,) under logits (rows, vocabulary)."""
    scores = logits[logprob_requests.rows].float().log_softmax(-1)
    listed = min(MAX_TOP_LOGPROBS, scores.shape[-1]) if any(logprob_requests.counts.values()) else 0
    top, ids = scores.topk(listed)
    return Logprobs(scores.gather(-1, tokens[logprob_requests.rows, None])[:, 0], top, ids)
