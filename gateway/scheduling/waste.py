"""Wasted memory access (WMA) of requests batched on a lock-step engine, in token reads.

Magnus (arXiv 2406.04785): a row of a batch is padded to the longest prompt L(B) and read until the
longest generation G(B) ends. With T(L, G) = G·L + G(G - 1)/2, the reads of one row alone,
`gen(p) + wait(p) = T(L(B), G(B)) - T(L(p), G'(p))`: the batch's WMA is its largest row less the
smallest member, so a batch need only remember the least T of its members.
"""

from collections.abc import Iterable


def row_reads(prompt_tokens: float, generation_tokens: float) -> float:
    """T(L, G): KV tokens read while one row of this prompt generates its tokens."""
    return generation_tokens * prompt_tokens + generation_tokens * (generation_tokens - 1) / 2


def padding_waste(prompt_tokens: float, generation_tokens: float, batch_prompt: float) -> float:
    """gen(p): padding read while p still generates; `batch_prompt` is L(B)."""
    return generation_tokens * (batch_prompt - prompt_tokens)


def waiting_waste(generation_tokens: float, batch_prompt: float, batch_generation: float) -> float:
    """wait(p): the whole row read after p has ended, until G(B)."""
    late = batch_generation * (batch_generation - 1) - generation_tokens * (generation_tokens - 1)
    return (batch_generation - generation_tokens) * batch_prompt + late / 2


def batch_waste(lengths: Iterable[tuple[float, float]]) -> float:
    """WMA(B) of members given as (L(p), G'(p)): the largest waste of one; 0 when empty."""
    members = list(lengths)
    longest_prompt = max((prompt for prompt, _ in members), default=0)
    longest_generation = max((generation for _, generation in members), default=0)
    least = min((row_reads(prompt, generation) for prompt, generation in members), default=0)
    return row_reads(longest_prompt, longest_generation) - least
