"""The simple admission rule, and control of the default: the future KV peak of known lengths."""

from collections.abc import Sequence
from itertools import accumulate

from msgspec import Struct

from gateway.scheduling.remaining import Lengths
from gateway.scheduling.waiting import Running


class Held(Struct, frozen=True):
    """KV tokens a sequence holds now, and the tokens it will still generate."""

    held: int
    remaining: int


def future_peak(running: Sequence[Held]) -> int:
    """Most KV tokens held at once while `running` finishes and nothing joins; 0 when empty.

    LightLLM's past-future scheduler (arXiv 2507.10150, ASPLOS '25): the peak lies where one ends.
    """
    order = sorted(running, key=lambda sequence: sequence.remaining, reverse=True)
    held = accumulate(sequence.held for sequence in order)
    ends = enumerate(zip(held, order, strict=True), 1)
    return max((tokens + n * sequence.remaining for n, (tokens, sequence) in ends), default=0)


def held_at_upper(running: Sequence[Running], level: float = 0.9) -> list[Held]:
    """Each sequence as if it ran to the `level` quantile of its length, given what it generated."""
    remaining = Lengths.of(running).remaining_quantile(level)
    return [
        Held(sequence.prompt_tokens + sequence.generated, round(tokens))
        for sequence, tokens in zip(running, remaining.tolist(), strict=True)
    ]
