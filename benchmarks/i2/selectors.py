"""Which tokens a step attends to, by our prediction and by others' rules."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import torch
from torch import Tensor

from benchmarks.i2.memory import TextMemory, before, causal, probabilities
from engine.offload.selection import encode, group_attention, predicted_scores, scale_of

SINKS: Final = 4
PAGE_TOKENS: Final = 16  # as in Quest

Budget = Callable[[int], int]  # of the tokens before it, how many a step attends to


class ChunkRows(NamedTuple):
    """The rows of a chunk in a layer: tokens `start` … of a text.

    `query`, (rows, heads, dim), are its queries, `foreseen` as predicted from the layer before;
    `keys`, (kv_heads, start + rows, dim), are all up to the last.
    """

    layer: int
    start: int
    query: Tensor
    foreseen: Tensor
    keys: Tensor

    @property
    def size(self) -> int:
        """The number of rows."""
        return len(self.query)

    @property
    def before(self) -> Tensor:
        """Which tokens come before each row: (1, rows, start + rows)."""
        return before(self.start, self.size)

    def counts(self, budget: Budget) -> list[int]:
        """The budget of each row."""
        return [budget(self.start + row) for row in range(self.size)]


class Selector(Protocol):
    """Chooses the tokens before each one that its step attends to."""

    def choose(self, rows: ChunkRows) -> Tensor:
        """The choice: (kv_heads, rows, start + rows)."""


class Everything:
    """Full attention."""

    def choose(self, rows: ChunkRows) -> Tensor:
        """All tokens before each one."""
        return rows.before.expand(len(rows.keys), -1, -1).clone()


class ByScore(ABC):
    """The tokens of the highest scores."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    @abstractmethod
    def scores(self, rows: ChunkRows) -> Tensor:
        """A score of each token: (kv_heads, rows, start + rows)."""

    def choose(self, rows: ChunkRows) -> Tensor:
        """The highest scores of each key head."""
        return highest(self.scores(rows), rows.start, rows.counts(self._budget))


def highest(scores: Tensor, start: int, counts: list[int]) -> Tensor:
    """The `counts` highest scores of each row, of the tokens before it."""
    rows = scores.shape[1]
    scores = scores.masked_fill(~before(start, rows), -torch.inf)
    chosen = torch.zeros(scores.shape, dtype=torch.bool)
    first = 0
    while first < rows:  # rows of one count together
        last = first
        while last < rows and counts[last] == counts[first]:
            last += 1
        part = scores[:, first:last]
        found = part.topk(counts[first], -1, sorted=False).indices
        chosen[:, first:last].scatter_(2, found, True)
        first = last
    return chosen


class Oracle(ByScore):
    """The attention that the tokens really get, summed over the query heads of a key head."""

    def scores(self, rows: ChunkRows) -> Tensor:
        """Attention."""
        seen = causal(rows.start, rows.size)
        return probabilities(rows.query, rows.keys, rows.query.shape[-1] ** -0.5, seen).sum(1)


class CodedKeys(ByScore):
    """What `host-speculative` does: attention predicted a layer early, from 4-bit codes of keys."""

    def __init__(self, memory: TextMemory, budget: Budget) -> None:
        super().__init__(budget)
        self._scales = [scale_of(memory.prompt_keys(layer)) for layer in range(len(memory.keys))]

    def scores(self, rows: ChunkRows) -> Tensor:
        """Predicted attention."""
        scale = self._scales[rows.layer]
        codes = encode(rows.keys, scale)
        grouped = rows.foreseen.unflatten(1, (len(codes), -1)).transpose(0, 1)
        queries = grouped.flatten(1, 2)  # (kv_heads, rows · group, dim)
        scores = predicted_scores(queries, codes, scale.step, queries.shape[-1] ** -0.5)
        of_rows = scores.unflatten(1, grouped.shape[1:3])
        return group_attention(of_rows.masked_fill_(~rows.before[:, :, None], -torch.inf))


class Recent:
    """The first tokens, and the last ones."""

    def __init__(self, budget: Budget, sinks: int) -> None:
        self._budget = budget
        self._sinks = sinks

    def choose(self, rows: ChunkRows) -> Tensor:
        """The same tokens for every query."""
        tokens = torch.arange(rows.start + rows.size)
        own = tokens[rows.start :, None]
        counts = torch.tensor(rows.counts(self._budget))[:, None]
        recent = (tokens >= own - counts + self._sinks) & (tokens < own)
        return ((tokens < self._sinks) | recent).expand(len(rows.keys), -1, -1).clone()


class Random(ByScore):
    """Any tokens."""

    def __init__(self, budget: Budget, seed: int = 0) -> None:
        super().__init__(budget)
        self._random = torch.Generator().manual_seed(seed)

    def scores(self, rows: ChunkRows) -> Tensor:
        """Random numbers."""
        kv_heads, tokens, _ = rows.keys.shape
        return torch.rand(kv_heads, rows.size, tokens, generator=self._random)


class HeavyHitters:
    """H2O (arXiv 2306.14048): half of the budget are the last tokens, half those that got most
    attention so far. What is left out once never comes back.
    """

    def __init__(self, memory: TextMemory, budget: Budget) -> None:
        self._budget = budget
        self._received = [each.clone() for each in memory.received]
        self._prompt = memory.prompt
        self._kept: dict[int, Tensor] = {}

    def choose(self, rows: ChunkRows) -> Tensor:
        """Token by token: what each one attends to decides what later ones can."""
        layer, start, query, _, keys = rows
        kv_heads, stop, dim = keys.shape
        received = self._received[layer]
        if layer not in self._kept:
            self._kept[layer] = torch.zeros(received.shape, dtype=torch.bool)
            self._kept[layer][:, :start] = True
        kept = self._kept[layer]
        chosen = torch.zeros(kv_heads, len(query), stop, dtype=torch.bool)
        grouped = query.unflatten(1, (kv_heads, -1)) * dim**-0.5  # (rows, kv_heads, group, dim)
        for row in range(len(query)):
            own = start + row
            self._evict(kept[:, :own], received[:, :own], self._budget(own))
            chosen[:, row, :own] = kept[:, :own]
            held = kept[:, :own].nonzero()[:, 1].view(kv_heads, -1)
            held = torch.cat((held, torch.full((kv_heads, 1), own)), 1)
            used = keys.gather(1, held[:, :, None].expand(-1, -1, dim))
            shares = (grouped[row] @ used.transpose(1, 2)).softmax(-1).sum(1)
            received.scatter_add_(1, held, shares)
            kept[:, own] = True
        return chosen

    @staticmethod
    def _evict(kept: Tensor, received: Tensor, budget: int) -> None:
        """Keep `budget` tokens of each key head."""
        recent = budget // 2
        scores = torch.where(kept, received, -torch.inf)
        scores[:, kept.shape[1] - recent :] = torch.inf
        left = scores.topk(budget, -1, sorted=False).indices
        kept.zero_().scatter_(1, left, True)


class Pages:
    """Quest (arXiv 2406.10774): pages by the highest score that a key in their bounds can have.

    Of several query heads of a key head the highest counts, relative to that head's best page.
    The page that a token is on is always chosen.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def choose(self, rows: ChunkRows) -> Tensor:
        """Whole pages, as many as the budget fills."""
        _, start, query, _, keys = rows
        kv_heads, stop, dim = keys.shape
        pages = -(-stop // PAGE_TOKENS)
        chosen = torch.zeros(kv_heads, len(query), pages * PAGE_TOKENS, dtype=torch.bool)
        low, high = self._bounds(keys[:, : stop // PAGE_TOKENS * PAGE_TOKENS])
        for row in range(len(query)):
            own = start + row
            page = own // PAGE_TOKENS  # pages before it are full
            grouped = query[row].view(kv_heads, -1, 1, dim)
            bounds = (
                torch.maximum(grouped * low[:, None, :page], grouped * high[:, None, :page]).sum(-1)
                * dim**-0.5
            )
            scores = (bounds - bounds.amax(-1, keepdim=True)).amax(1)
            count = max((self._budget(own) - own % PAGE_TOKENS) // PAGE_TOKENS, 1)
            best = scores.topk(min(count, page), -1, sorted=False).indices
            of_row = chosen[:, row].view(kv_heads, pages, PAGE_TOKENS)
            of_row[torch.arange(kv_heads)[:, None], best] = True
            chosen[:, row, page * PAGE_TOKENS : own] = True
        return chosen[:, :, :stop]

    @staticmethod
    def _bounds(keys: Tensor) -> tuple[Tensor, Tensor]:
        paged = keys.unflatten(1, (-1, PAGE_TOKENS))
        return paged.amin(2), paged.amax(2)
