"""The ways to choose among a row's tokens.

Each is exact; which one a row goes depends on its own options alone.
"""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Final, NamedTuple, Protocol

import torch
from torch import Tensor

from engine.protocol import Sampling
from engine.sampling.multinomial import Multinomial
from engine.sampling.params import SamplingParams
from engine.sampling.top_k import leading_mask, ranks
from engine.sampling.transfer import column

MIN_TEMPERATURE: Final = 1e-5  # below this temperature the likeliest token is taken
MAX_SORTED_TOP_K: Final = (
    1024  # up to this top_k, picking the tokens out is cheaper than selecting them
)
_ID_BITS: Final = 31


class SamplingMethod(Enum):
    """How rows are drawn; those of a group go the same way."""

    GREEDY = auto()
    FULL = auto()
    TOP_K = auto()
    TOP_P = auto()


def method_of(sampling: Sampling, vocabulary: int) -> SamplingMethod:
    """The way these options go."""
    if sampling.temperature < MIN_TEMPERATURE or sampling.top_k == 1:
        return SamplingMethod.GREEDY
    if 0 < sampling.top_k < vocabulary:
        return SamplingMethod.TOP_K if sampling.top_k <= MAX_SORTED_TOP_K else SamplingMethod.TOP_P
    return SamplingMethod.TOP_P if sampling.top_p < 1 else SamplingMethod.FULL


class TokenSampler(Protocol):
    """Chooses one token in each row of a group."""

    def sample(self, scores: Tensor, highest: Tensor) -> Tensor:
        """Scores (rows, vocabulary) and the highest of each (rows,) give tokens (rows,)."""


def make_sampler(
    method: SamplingMethod, params: Sequence[SamplingParams], vocabulary: int, device: torch.device
) -> TokenSampler | None:
    """The choice of rows that go one way; None where it is the likeliest token."""
    if method is SamplingMethod.GREEDY:
        return None
    multinomial = Multinomial.of(params, vocabulary, device)
    if method is SamplingMethod.FULL:
        return FullSampler(multinomial)
    counts = [min(d.sampling.top_k or vocabulary, vocabulary) for d in params]
    top_k = column(counts, torch.int64, device)
    top_p = column([d.sampling.top_p for d in params], torch.float64, device)
    if method is SamplingMethod.TOP_K:
        return TopKSampler(multinomial, top_k, top_p, max(counts))
    cut = min(counts) < vocabulary, any(d.sampling.top_p < 1 for d in params)
    return TopPSampler(multinomial, top_k if cut[0] else None, top_p if cut[1] else None)


class FullSampler(NamedTuple):
    """Any token, by its weight."""

    multinomial: Multinomial

    def sample(self, scores: Tensor, highest: Tensor) -> Tensor:
        """Every token's turn comes in the order of ids."""
        return self.multinomial.sample(self.multinomial.weights(scores, highest))[:, 0]


class TopKSampler(NamedTuple):
    """The `top_k` likeliest tokens, picked out: `max_top_k` for every row."""

    multinomial: Multinomial
    top_k: Tensor
    top_p: Tensor
    max_top_k: int

    def sample(self, scores: Tensor, highest: Tensor) -> Tensor:
        """Among equal scores the lowest ids are listed."""
        ids = torch.arange(scores.shape[-1], device=scores.device)
        keys = (ranks(scores) << _ID_BITS).bitwise_or_(ids)
        candidates = keys.topk(self.max_top_k, largest=False).values & ((1 << _ID_BITS) - 1)
        weights = self.multinomial.weights(scores.gather(-1, candidates), highest)
        place = torch.arange(self.max_top_k, device=scores.device)
        weights = weights.masked_fill(place >= self.top_k, 0)
        cumulative = weights.cumsum(-1)
        outside = cumulative - weights >= _top_p_weight(cumulative[:, -1:], self.top_p)
        drawn = self.multinomial.sample(weights.masked_fill(outside, 0))
        return candidates.gather(-1, drawn)[:, 0]


class TopPSampler(NamedTuple):
    """The likeliest tokens up to the first that brings them to `top_p` (arXiv 1904.09751)."""

    multinomial: Multinomial
    top_k: Tensor | None
    top_p: Tensor | None

    def sample(self, scores: Tensor, highest: Tensor) -> Tensor:
        """The nucleus is that of the `top_k` likeliest tokens; either bound may be missing."""
        rank = ranks(scores)
        weights = self.multinomial.weights(scores, highest)
        if self.top_k is not None:
            weights = weights * leading_mask(rank, torch.ones_like(weights), self.top_k)
        if self.top_p is not None:
            target_weight = _top_p_weight(weights.sum(-1, keepdim=True), self.top_p)
            weights = weights * leading_mask(rank, weights, target_weight)
        return self.multinomial.sample(weights)[:, 0]


def _top_p_weight(total: Tensor, top_p: Tensor) -> Tensor:
    """The least whole number that is `top_p` of a total: (rows, 1)."""
    share = (top_p * total.double()).ceil().long().minimum(total)
    return torch.where(top_p < 1, share, total)  # a double does not hold every total
