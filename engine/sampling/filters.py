"""Sampling with temperature, top-k, top-p and min-p.

All methods are exact. A row's method depends only on its own options.
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

MIN_TEMPERATURE: Final = 1e-5  # below it sampling is greedy
MAX_SORTED_TOP_K: Final = 1024  # up to it torch.topk is cheaper than a mask by `leading_mask`
_ID_BITS: Final = 31


class SamplingMethod(Enum):
    """How the rows of a group are sampled."""

    GREEDY = auto()
    FULL = auto()
    TOP_K = auto()
    TOP_P = auto()


def method_of(sampling: Sampling, vocabulary: int) -> SamplingMethod:
    """The method for these options."""
    if sampling.temperature < MIN_TEMPERATURE or sampling.top_k == 1:
        return SamplingMethod.GREEDY
    if 0 < sampling.top_k < vocabulary:
        return SamplingMethod.TOP_K if sampling.top_k <= MAX_SORTED_TOP_K else SamplingMethod.TOP_P
    return SamplingMethod.TOP_P if sampling.top_p < 1 else SamplingMethod.FULL


class TokenSampler(Protocol):
    """Samples one token for each row of a group."""

    def sample(self, scores: Tensor, highest: Tensor) -> Tensor:
        """Tokens (rows,) from scores (rows, vocabulary) and each row's highest score (rows,)."""


def make_sampler(
    method: SamplingMethod, params: Sequence[SamplingParams], vocabulary: int, device: torch.device
) -> TokenSampler | None:
    """The sampler for rows of one method; None for greedy rows."""
    if method is SamplingMethod.GREEDY:
        return None
    multinomial = Multinomial.of(params, vocabulary, device)
    if method is SamplingMethod.FULL:
        return FullSampler(multinomial)
    counts = [min(p.sampling.top_k or vocabulary, vocabulary) for p in params]
    top_k = column(counts, torch.int64, device)
    top_p = column([p.sampling.top_p for p in params], torch.float64, device)
    if method is SamplingMethod.TOP_K:
        return TopKSampler(multinomial, top_k, top_p, max(counts))
    limited = min(counts) < vocabulary, any(p.sampling.top_p < 1 for p in params)
    return TopPSampler(multinomial, top_k if limited[0] else None, top_p if limited[1] else None)


class FullSampler(NamedTuple):
    """Samples from all tokens."""

    multinomial: Multinomial

    def sample(self, scores: Tensor, highest: Tensor) -> Tensor:
        """Inverse transform sampling in the order of token ids."""
        return self.multinomial.sample(self.multinomial.weights(scores, highest))[:, 0]


class TopKSampler(NamedTuple):
    """Samples from the `top_k` likeliest tokens, gathered as `max_top_k` candidates per row."""

    multinomial: Multinomial
    top_k: Tensor
    top_p: Tensor
    max_top_k: int

    def sample(self, scores: Tensor, highest: Tensor) -> Tensor:
        """Among equal scores the lowest ids are kept."""
        ids = torch.arange(scores.shape[-1], device=scores.device)
        keys = (ranks(scores) << _ID_BITS).bitwise_or_(ids)
        candidates = keys.topk(self.max_top_k, largest=False).values & ((1 << _ID_BITS) - 1)
        weights = self.multinomial.weights(scores.gather(-1, candidates), highest)
        place = torch.arange(self.max_top_k, device=scores.device)
        weights = weights.masked_fill(place >= self.top_k, 0)
        cumulative = weights.cumsum(-1)
        outside = cumulative - weights >= _top_p_weight(cumulative[:, -1:], self.top_p)
        index = self.multinomial.sample(weights.masked_fill(outside, 0))
        return candidates.gather(-1, index)[:, 0]


class TopPSampler(NamedTuple):
    """Samples from the fewest likeliest tokens that reach `top_p` (arXiv 1904.09751)."""

    multinomial: Multinomial
    top_k: Tensor | None
    top_p: Tensor | None

    def sample(self, scores: Tensor, highest: Tensor) -> Tensor:
        """`top_p` applies to the distribution over the `top_k` likeliest tokens; both optional."""
        rank = ranks(scores)
        weights = self.multinomial.weights(scores, highest)
        if self.top_k is not None:
            weights = weights * leading_mask(rank, torch.ones_like(weights), self.top_k)
        if self.top_p is not None:
            target_weight = _top_p_weight(weights.sum(-1, keepdim=True), self.top_p)
            weights = weights * leading_mask(rank, weights, target_weight)
        return self.multinomial.sample(weights)[:, 0]


def _top_p_weight(total: Tensor, top_p: Tensor) -> Tensor:
    """The smallest integer that reaches `top_p` of a total: (rows, 1)."""
    share = (top_p * total.double()).ceil().long().minimum(total)
    return torch.where(top_p < 1, share, total)  # a double cannot represent every total
