"""Jobs of tokenised lines, made a chunk at a time so that they take no memory."""

from collections.abc import Iterator
from math import ceil
from typing import Final

import numpy as np
from msgspec import Struct

from gateway.jobs.prompts import JobPrompts, Tokens

CHUNK: Final = 500  # lines
VOCABULARY: Final = 50_000


class JobShape(Struct, frozen=True):
    """Lines of an id, a system prompt, a document and their own text, in shuffled order.

    `degree` lines have each document, and `documents` of these each system prompt, if that is not
    empty. An id is different in every line.
    """

    name: str
    id: int
    system: int
    document: int
    own: int
    degree: int
    documents: int = 1

    @property
    def tokens(self) -> int:
        """The tokens of a line."""
        return self.id + self.system + self.document + self.own

    def optimum(self, lines: int, page_tokens: int) -> float:
        """The share of prompt tokens saved if every shared page is computed once, in levels."""
        if self.id:
            return 0.0
        documents = ceil(lines / self.degree)
        systems = ceil(documents / self.documents)
        both = (self.system + self.document) // page_tokens * page_tokens
        system = self.system // page_tokens * page_tokens
        saved = (lines - documents) * both + (documents - systems) * system
        return saved / (lines * self.tokens)

    def chunks(self, lines: int) -> Iterator[JobPrompts]:
        """The lines; the same ones each time."""
        order = np.random.default_rng(1).permutation(lines)
        starts = np.arange(CHUNK + 1) * self.tokens
        for first in range(0, lines, CHUNK):
            chosen = order[first : first + CHUNK].tolist()
            rows = np.concatenate([self._line(line) for line in chosen])
            yield JobPrompts(rows, starts[: len(chosen) + 1])

    def _line(self, line: int) -> Tokens:
        document = line // self.degree
        own = _text(0, line, self.id + self.own)
        return np.concatenate(
            (
                own[: self.id],
                _text(1, document // self.documents, self.system),
                _text(2, document, self.document),
                own[self.id :],
            )
        )


def _text(kind: int, number: int, tokens: int) -> Tokens:
    random = np.random.Generator(np.random.SFC64([kind, number]))
    return random.integers(0, VOCABULARY, tokens, np.uint32)


SHAPES: Final = (
    JobShape("16 lines a document", 0, 0, 1_808, 192, 16),
    JobShape("2 lines a document", 0, 0, 1_808, 192, 2),
    JobShape("8 documents a system prompt", 0, 608, 1_200, 192, 16, 8),
    JobShape("an id before the document", 8, 0, 1_808, 184, 16),
)
