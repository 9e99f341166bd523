"""Wasted memory access (WMA) of requests batched on a lock-step engine, in token reads.

Magnus (arXiv 2406.04785): a row of a batch is padded to the longest prompt L(B) and read until the
longest generation G(B) ends. With T(L, G) = G·L + G(G - 1)/2, the reads of one row alone,
`gen(p) + wait(p) = T(L(B), G(B)) - T(L(p), G'(p))`: the batch's WMA is its largest row less the
smallest member, so a batch need only remember the least T of its members.
"""


def row_reads(prompt_tokens: float, generation_tokens: float) -> float:
    """T(L, G): KV tokens read while one row of this prompt generates its tokens."""
    return generation_tokens * prompt_tokens + generation_tokens * (generation_tokens - 1) / 2
