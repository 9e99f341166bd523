"""Penalties on tokens that occurred before."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from engine.protocol import Sampling
from engine.sampling.params import SamplingParams
from engine.sampling.transfer import to_device


def has_penalties(sampling: Sampling) -> bool:
    """Whether these options penalise earlier tokens."""
    return (
        sampling.repetition_penalty != 1.0
        or sampling.frequency_penalty != 0.0
        or sampling.presence_penalty != 0.0
    )


class Penalties(NamedTuple):
    """Each distinct earlier token of a group's rows, and its penalties.

    `counts` is how often it was generated; 0 if it occurs only in the prompt. The newest tokens may
    not be on the host yet: rows `carrying` get theirs from rows `carried` of the previous step.
    """

    rows: Tensor  # (entries,)
    tokens: Tensor  # (entries,)
    counts: Tensor  # (entries,)
    factors: Tensor  # (rows, 3): repetition, frequency, presence
    carrying: Tensor  # (carriers,)
    carried: Tensor  # (carriers,)

    @classmethod
    def of(
        cls, params: Sequence[SamplingParams], vocabulary: int, device: torch.device
    ) -> Self | None:
        """The penalties of these rows, or None."""
        tables = [
            (row, _token_counts(row_params))
            for row, row_params in enumerate(params)
            if has_penalties(row_params.sampling)
        ]
        if not tables:
            return None
        lengths = [table.shape[1] for _, table in tables]
        rows = np.repeat([row for row, _ in tables], lengths)
        tokens, counts = np.concatenate([table for _, table in tables], axis=1)
        in_vocabulary = tokens < vocabulary
        carriers = [(row, params[row].carried) for row, _ in tables]
        pending = [(row, carried) for row, carried in carriers if carried is not None]
        host = (
            *(torch.from_numpy(column[in_vocabulary]) for column in (rows, tokens, counts)),
            torch.tensor([_factors(row_params.sampling) for row_params in params]),
            *torch.tensor(pending, dtype=torch.int64).reshape(-1, 2).T.contiguous(),
        )
        return cls(*(to_device(tensor, device) for tensor in host))

    def apply(self, scores: Tensor, previous: Tensor | None) -> None:
        """Penalise scores (rows, vocabulary) in place; `previous`: the previous step's tokens.

        The repetition penalty is CTRL's (arXiv 1909.05858, section 4.1) in Hugging Face's form,
        which multiplies negative scores; frequency and presence penalties are OpenAI's.
        """
        rows, tokens, counts = self._entries(len(scores), previous)
        repetition, frequency, presence = self.factors[rows].unbind(-1)
        places = rows * scores.shape[-1] + tokens
        flat = scores.view(-1)
        before = flat[places]
        after = torch.where(before > 0, before / repetition, before * repetition)
        flat.index_copy_(0, places, after - frequency * counts - presence * (counts > 0))

    def _entries(self, rows: int, previous: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, tokens and counts including the carried tokens: (entries + carriers,) each.

        A carried token that occurred before is listed twice, both times with its full count.
        """
        if not len(self.carrying):
            return self.rows, self.tokens, self.counts
        assert previous is not None, "a row carries a token, but there is no previous step"
        arrived = previous[self.carried]
        newest = self.tokens.new_full((rows,), -1).index_copy_(0, self.carrying, arrived)
        repeated = self.tokens == newest[self.rows]
        counts = self.counts + repeated
        total = counts.new_zeros(rows).index_add_(0, self.rows, counts * repeated)
        return (
            torch.cat([self.rows, self.carrying]),
            torch.cat([self.tokens, arrived]),
            torch.cat([counts, total[self.carrying].clamp_(min=1)]),
        )


def _token_counts(row_params: SamplingParams) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Distinct earlier tokens, and how often each was generated: (2, tokens)."""
    repeats = row_params.sampling.repetition_penalty != 1.0
    counts = dict.fromkeys(row_params.prompt, 0) if repeats else {}
    counts.update(Counter(row_params.generated))
    return np.array([list(counts), list(counts.values())], dtype=np.int64)


def _factors(sampling: Sampling) -> tuple[float, float, float]:
    return sampling.repetition_penalty, sampling.frequency_penalty, sampling.presence_penalty
