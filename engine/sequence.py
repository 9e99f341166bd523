"""One sequence on its way through the engine."""

from dataclasses import dataclass, field
from typing import Final

from engine.protocol import Sampling, Sequence

GREEDY: Final = Sampling()


@dataclass(eq=False, slots=True)
class LiveSequence:
    """Tokens, memory and promise of one sequence; owned by the step loop.

    `computed` of its `tokens` have their keys and values in `pages`. `reserved` is the generation
    length that memory is promised for, `expected` the length it is now thought to reach: the
    first is kept, the second only chooses victims.
    """

    id: str
    arrival: int
    tokens: list[int]
    prompt_tokens: int
    max_tokens: int
    reserved: int
    expected: int
    stop_ids: frozenset[int] = frozenset()
    sampling: Sampling = GREEDY
    computed: int = 0
    pages: list[int] = field(default_factory=list)

    @property
    def generated(self) -> int:
        """Tokens generated so far, here or before it came here."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def pending(self) -> int:
        """Tokens not computed yet: 1 while decoding."""
        return len(self.tokens) - self.computed

    @property
    def remainder(self) -> int:
        """Tokens it is still expected to generate; one that outgrew that, up to its reservation."""
        expected = self.expected if self.expected > self.generated else self.reserved
        return expected - self.generated


def live(sequence: Sequence, arrival: int) -> LiveSequence:
    """A submitted sequence, about to wait for its turn; `arrival` numbers them in submit order."""
    reserved = min(sequence.reserve, sequence.max_tokens)
    return LiveSequence(
        id=sequence.id,
        arrival=arrival,
        tokens=[*sequence.prompt, *sequence.generated],
        prompt_tokens=len(sequence.prompt),
        max_tokens=sequence.max_tokens,
        reserved=reserved,
        expected=reserved,
        stop_ids=frozenset(sequence.stop_ids),
        sampling=sequence.sampling,
    )
