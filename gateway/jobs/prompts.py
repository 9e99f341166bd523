"""The prompts of a job as token ids, in one array."""

from array import array
from collections.abc import Iterable, Sequence
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import Struct

Tokens: TypeAlias = npt.NDArray[np.uint32]
Ints: TypeAlias = npt.NDArray[np.int64]


class JobPrompts(Struct, frozen=True):
    """n prompts, one after the other: prompt i is `tokens[starts[i] : starts[i + 1]]`.

    `tokens` takes four bytes a token; `starts` is (n + 1,). The first `skipped[i]` tokens of prompt
    i are left out: (n,).
    """

    tokens: Tokens
    starts: Ints
    skipped: Ints | None = None

    @classmethod
    def of(cls, prompts: Iterable[Sequence[int]]) -> Self:
        """The prompts in this order. OverflowError if an id is negative or takes over 32 bits."""
        tokens, starts = array("I"), array("q", [0])
        for prompt in prompts:
            tokens.extend(prompt)
            starts.append(len(tokens))
        return cls(np.frombuffer(tokens, np.uint32), np.frombuffer(starts, np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Ints:
        """The tokens of each prompt: (n,)."""
        return self.starts[1:] - self.begins

    @property
    def begins(self) -> Ints:
        """The index in `tokens` of each prompt's first token: (n,)."""
        return self.starts[:-1] if self.skipped is None else self.starts[:-1] + self.skipped

    def last(self, count: int) -> "JobPrompts":
        """The last prompts alone."""
        first = len(self) - count
        skipped = None if self.skipped is None else self.skipped[first:]
        return JobPrompts(self.tokens, self.starts[first:], skipped)

    def pages(self, prompts: Ints, page: int, page_tokens: int) -> Tokens:
        """A page of each of these prompts, which must have it: (len(prompts), page_tokens)."""
        first = self.starts[prompts] + page * page_tokens
        if self.skipped is not None:
            first += self.skipped[prompts]
        contents: Tokens = self.tokens[first[:, None] + np.arange(page_tokens)]
        return contents
