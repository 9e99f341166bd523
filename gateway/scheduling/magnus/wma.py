"""Wasted memory access (WMA) of a lock-step batch, in KV token reads.

Magnus (arXiv 2406.04785): each row of a batch is padded to the longest prompt L(B) and read until
the longest generation G(B) ends. With T(L, G) = G·L + G(G - 1)/2, the reads of one row alone, a
member p wastes `gen(p) + wait(p) = T(L(B), G(B)) - T(L(p), G'(p))`. WMA(B) is the largest of these:
T(L(B), G(B)) less the minimum T of the members.
"""


def row_reads(prompt_tokens: float, generation_tokens: float) -> float:
    """T(L, G): KV tokens read while one row with this prompt generates its tokens."""
    return generation_tokens * prompt_tokens + generation_tokens * (generation_tokens - 1) / 2
