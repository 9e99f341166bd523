"""Wasted memory access (WMA) of a lock-step batch, in KV token reads.

Magnus (arXiv 2406.04785): each row of a batch is padded to the longest prompt L(B) and read until
the longest generation G(B) ends. With T(L, G) = G·L + G(G - 1)/2, the reads of one row alone, a
member p wastes `gen(p) + wait(p) = T(L(B), G(B)) - T(L(p), G'(p))`. WMA(B) is the largest of these:
T(L(B), G(B)) less the minimum T of the members.
"""

from typing import TypeVar

from msgspec import Struct

from gateway.quantiles import Floats

Number = TypeVar("Number", float, Floats)


def row_reads(prompt_tokens: Number, generation_tokens: Number) -> Number:
    """T(L, G): KV tokens read while one row with this prompt generates its tokens."""
    return generation_tokens * (prompt_tokens + (generation_tokens - 1) / 2)


class WasteLimit(Struct, frozen=True):
    """Φ, the most that a batch may waste: a share of T(L(B), G(B)), what one of its rows reads.

    With a share of 0 a batch has rows of one length, with 1 of any lengths. `reads` is the paper's
    absolute Φ in token reads, in place of the share.
    """

    share: float
    reads: float | None = None

    def of(self, row_reads: Floats) -> Floats | float:
        """The limit in token reads for each of the batches whose rows read this many."""
        return self.share * row_reads if self.reads is None else self.reads
