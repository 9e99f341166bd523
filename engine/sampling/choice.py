"""The ways to choose among a row's tokens.

Each is exact; which one a row goes depends on its own options alone.
"""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Final, NamedTuple, Protocol

import torch
from torch import Tensor

from engine.protocol import Sampling
from engine.sampling.draw import Draw
from engine.sampling.lottery import Lottery
from engine.sampling.selection import leading, ranks
from engine.sampling.transfer import column

COLDEST: Final = 1e-5  # below this temperature the likeliest token is taken
SHORTLIST: Final = 1024  # up to this top_k, picking the tokens out is cheaper than selecting them
_ID_BITS: Final = 31


class Way(Enum):
    """How rows are drawn; those of a group go the same way."""

    LIKELIEST = auto()
    ALL = auto()
    SHORTLIST = auto()
    NUCLEUS = auto()


def way(sampling: Sampling, vocabulary: int) -> Way:
    """The way these options go."""
    if sampling.temperature < COLDEST or sampling.top_k == 1:
        return Way.LIKELIEST
    if 0 < sampling.top_k < vocabulary:
        return Way.SHORTLIST if sampling.top_k <= SHORTLIST else Way.NUCLEUS
    return Way.NUCLEUS if sampling.top_p < 1 else Way.ALL


class Choice(Protocol):
    """Chooses one token in each row of a group."""

    def choose(self, scores: Tensor, highest: Tensor) -> Tensor:
        """Scores (rows, vocabulary) and the highest of each (rows,) give tokens (rows,)."""


def choice(
    kind: Way, draws: Sequence[Draw], vocabulary: int, device: torch.device
) -> Choice | None:
    """The choice of rows that go one way; None where it is the likeliest token."""
    if kind is Way.LIKELIEST:
        return None
    lottery = Lottery.of(draws, vocabulary, device)
    if kind is Way.ALL:
        return FromAll(lottery)
    counts = [min(d.sampling.top_k or vocabulary, vocabulary) for d in draws]
    top_k = column(counts, torch.int64, device)
    top_p = column([d.sampling.top_p for d in draws], torch.float64, device)
    if kind is Way.SHORTLIST:
        return FromShortlist(lottery, top_k, top_p, max(counts))
    cut = min(counts) < vocabulary, any(d.sampling.top_p < 1 for d in draws)
    return FromNucleus(lottery, top_k if cut[0] else None, top_p if cut[1] else None)


class FromAll(NamedTuple):
    """Any token, by its weight."""

    lottery: Lottery

    def choose(self, scores: Tensor, highest: Tensor) -> Tensor:
        """Every token's turn comes in the order of ids."""
        return self.lottery.draw(self.lottery.weights(scores, highest))[:, 0]


class FromShortlist(NamedTuple):
    """The `top_k` likeliest tokens, picked out: `most` for every row."""

    lottery: Lottery
    top_k: Tensor
    top_p: Tensor
    most: int

    def choose(self, scores: Tensor, highest: Tensor) -> Tensor:
        """Among equal scores the lowest ids are listed."""
        ids = torch.arange(scores.shape[-1], device=scores.device)
        keys = (ranks(scores) << _ID_BITS).bitwise_or_(ids)
        listed = keys.topk(self.most, largest=False).values & ((1 << _ID_BITS) - 1)
        weights = self.lottery.weights(scores.gather(-1, listed), highest)
        place = torch.arange(self.most, device=scores.device)
        weights = weights.masked_fill(place >= self.top_k, 0)
        upto = weights.cumsum(-1)
        beyond = upto - weights >= _share(upto[:, -1:], self.top_p)
        drawn = self.lottery.draw(weights.masked_fill(beyond, 0))
        return listed.gather(-1, drawn)[:, 0]


class FromNucleus(NamedTuple):
    """The likeliest tokens up to the first that brings them to `top_p` (arXiv 1904.09751)."""

    lottery: Lottery
    top_k: Tensor | None
    top_p: Tensor | None

    def choose(self, scores: Tensor, highest: Tensor) -> Tensor:
        """The nucleus is that of the `top_k` likeliest tokens; either bound may be missing."""
        rank = ranks(scores)
        weights = self.lottery.weights(scores, highest)
        if self.top_k is not None:
            weights = weights * leading(rank, torch.ones_like(weights), self.top_k)
        if self.top_p is not None:
            wanted = _share(weights.sum(-1, keepdim=True), self.top_p)
            weights = weights * leading(rank, weights, wanted)
        return self.lottery.draw(weights)[:, 0]


def _share(total: Tensor, top_p: Tensor) -> Tensor:
    """The least whole number that is `top_p` of a total: (rows, 1)."""
    share = (top_p * total.double()).ceil().long().minimum(total)
    return torch.where(top_p < 1, share, total)  # a double does not hold every total
