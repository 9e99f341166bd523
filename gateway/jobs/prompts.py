"""The prompts of a job in one array: as token ids, or as hashes of their pages."""

from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import Struct

Tokens: TypeAlias = npt.NDArray[np.uint32]
Ints: TypeAlias = npt.NDArray[np.int64]
Hashes: TypeAlias = npt.NDArray[np.uint64]

MIXER: Final = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits without pattern
STORED: Final = np.dtype("<u8")
HASHED_AT_ONCE: Final = 1 << 16  # pages


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


class PromptPages(Struct, frozen=True):
    """The pages of n prompts that can be shared, each as a hash of its tokens.

    Those of prompt i are `hashes[starts[i] : starts[i + 1]]`; `starts` is (n + 1,). An engine
    shares full pages only and computes at least the last token of each prompt, so of a prompt of m
    tokens they are the first (m - 1) // page_tokens. Pages with equal hashes count as equal:
    among 10 million pages, two different ones have the same hash with a probability of 3 in a
    million. A line that is so put into a wrong group runs without a prefix.
    """

    hashes: Hashes
    starts: Ints

    @classmethod
    def of(cls, prompts: JobPrompts, page_tokens: int) -> Self:
        """The pages of these prompts."""
        counts = np.maximum(prompts.lengths - 1, 0) // page_tokens
        starts = _starts(counts)
        within = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
        first = np.repeat(prompts.begins, counts) + within * page_tokens
        hashes = np.empty(len(first), np.uint64)
        for begin in range(0, len(first), HASHED_AT_ONCE):
            part = slice(begin, begin + HASHED_AT_ONCE)
            hashes[part] = _page_hashes(prompts.tokens, first[part], page_tokens)
        return cls(hashes, starts)

    @classmethod
    def read(cls, hashes: Hashes, counts: Ints) -> Self:
        """The pages of prompts that have this number each."""
        return cls(hashes, _starts(counts))

    @classmethod
    def unpacked(cls, prompts: Sequence[bytes]) -> Self:
        """The pages of prompts from what `packed` gave of each."""
        counts = np.array([len(pages) // STORED.itemsize for pages in prompts], np.int64)
        return cls.read(np.frombuffer(b"".join(prompts), STORED), counts)

    def packed(self) -> list[bytes]:
        """The pages of each prompt, eight bytes each, little-endian."""
        content = self.hashes.astype(STORED, copy=False)
        starts = self.starts.tolist()
        return [content[first:end].tobytes() for first, end in pairwise(starts)]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def counts(self) -> Ints:
        """The pages of each prompt: (n,)."""
        return np.diff(self.starts)

    def page(self, prompts: Ints, number: int) -> Hashes:
        """A page of each of these prompts, which must have it: (len(prompts),)."""
        found: Hashes = self.hashes[self.starts[prompts] + number]
        return found

    def followed_by(self, others: "PromptPages") -> "PromptPages":
        """The pages of these prompts, then those of others."""
        return PromptPages(
            np.concatenate((self.hashes, others.hashes)),
            np.concatenate((self.starts, self.starts[-1] + others.starts[1:])),
        )


NO_PAGES: Final = PromptPages(np.zeros(0, np.uint64), np.zeros(1, np.int64))


def mixed(hashes: Hashes, values: Hashes | Tokens) -> Hashes:
    """The hashes, each changed by a value so that other values give other ones."""
    found = (hashes ^ values) * MIXER
    found ^= found >> np.uint64(29)
    return found


def _page_hashes(tokens: Tokens, first: Ints, page_tokens: int) -> Hashes:
    """A hash of the page that begins at each of these tokens."""
    found = np.zeros(len(first), np.uint64)
    for column in range(page_tokens):
        found = mixed(found, tokens[first + column])
    return found


def _starts(counts: Ints) -> Ints:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)))
