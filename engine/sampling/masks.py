"""Masks of tokens that may not be sampled."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import inf
from typing import Final, NamedTuple, Self

import torch
from torch import Tensor

from engine.sampling.params import SamplingParams
from engine.sampling.transfer import to_device

ALWAYS: Final = -1  # in place of a token that must have come before


class Masks(NamedTuple):
    """The rows of a group with a limited set of tokens, and these sets."""

    rows: Tensor  # (masked,)
    allowed: Tensor  # (masked, vocabulary)

    @classmethod
    def of(
        cls, params: Sequence[SamplingParams], vocabulary: int, device: torch.device
    ) -> Self | None:
        """The masks of these rows, or None."""
        present = [
            (row, allowed_mask(tuple(row_params.sampling.allowed), vocabulary, device))
            for row, row_params in enumerate(params)
            if row_params.sampling.allowed
        ]
        if not present:
            return None
        rows = torch.tensor([row for row, _ in present])
        return cls(to_device(rows, device), torch.stack([mask for _, mask in present]))

    def apply(self, scores: Tensor) -> None:
        """Mask tokens in scores (rows, vocabulary), in place."""
        penalty = 1 - 1 / self.allowed.float()  # 0 or -inf, without a branch per token
        scores.index_add_(0, self.rows, penalty)  # addition preserves NaN


class Bans(NamedTuple):
    """Single tokens that may not be sampled: (entries,) each.

    An entry with an `awaited` token bans only after that one, which row `carried` of the previous
    step may have sampled.
    """

    rows: Tensor
    tokens: Tensor
    awaited: Tensor
    carried: Tensor
    any_awaited: bool

    @classmethod
    def of(
        cls, params: Sequence[SamplingParams], vocabulary: int, device: torch.device
    ) -> Self | None:
        """The bans of these rows, or None; ids outside the vocabulary are ignored."""
        entries = [
            (row, *entry)
            for row, row_params in enumerate(params)
            for entry in _bans(row_params)
            if 0 <= entry[0] < vocabulary
        ]
        if not entries:
            return None
        columns = torch.tensor(entries, dtype=torch.int64).T.contiguous()
        any_awaited = any(awaited != ALWAYS for _, _, awaited, _ in entries)
        rows, tokens, awaited, carried = to_device(columns, device)
        return cls(rows, tokens, awaited, carried, any_awaited)

    def apply(self, scores: Tensor, previous: Tensor | None) -> None:
        """Ban in scores (rows, vocabulary), in place; `previous`: the previous step's tokens."""
        penalty = scores.new_full(self.rows.shape, -inf)
        if self.any_awaited:
            assert previous is not None, "a row carries a token, but there is no previous step"
            follows = previous[self.carried] == self.awaited
            penalty = penalty.where(follows | (self.awaited == ALWAYS), 0.0)
        scores.view(-1).index_add_(0, self.rows * scores.shape[-1] + self.tokens, penalty)


def _bans(row_params: SamplingParams) -> Iterator[tuple[int, int, int]]:
    """A row's banned tokens, each with the token it is awaited after and that token's row."""
    for token in row_params.banned:
        yield token, ALWAYS, 0
    for *before, last in row_params.sampling.bad_words:
        if before and row_params.carried is not None:
            if _ends_with(row_params.generated, before[:-1]):
                yield last, before[-1], row_params.carried
        elif _ends_with(row_params.generated, before):
            yield last, ALWAYS, 0


def _ends_with(tokens: Sequence[int], end: Sequence[int]) -> bool:
    return not end or list(tokens[-len(end) :]) == list(end)


@lru_cache(maxsize=64)
def allowed_mask(ids: tuple[int, ...], vocabulary: int, device: torch.device) -> Tensor:
    """True for these tokens: (vocabulary,) booleans; ids outside the vocabulary are ignored."""
    mask = torch.zeros(vocabulary, dtype=torch.bool)
    mask[[token for token in ids if 0 <= token < vocabulary]] = True
    return to_device(mask, device)
