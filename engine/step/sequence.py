"""One sequence on its way through the engine."""

from dataclasses import dataclass, field

from engine.kv.host import SwappedPages
from engine.kv.prefix import PrefixNode
from engine.protocol import Sampling, Sequence
from engine.sampling import GREEDY, Constraint, is_greedy, needs_history


@dataclass(eq=False, slots=True)
class SequenceState:
    """Tokens, memory and promise of one sequence; owned by the step loop.

    `computed` tokens have their keys and values in `pages`, or will when the launched steps are
    done; the first pages are those of `nodes`, which other sequences may read too. `in_flight` tokens
    are being drawn and not in `tokens` yet. `reserved` is the generation length that memory is
    promised for, `expected` the length it is now thought to reach: the first is kept, the second
    only chooses victims.
    """

    id: str
    arrival: int
    tokens: list[int]
    prompt_tokens: int
    max_tokens: int
    reserved: int
    expected: int
    stop_ids: frozenset[int] = frozenset()
    sampling: Sampling = GREEDY.sampling
    constraint: Constraint | None = None
    salt: str = ""
    preempt_first: int = 0  # the highest is preempted first and starts last

    computed: int = 0
    pages: list[int] = field(default_factory=list)
    nodes: list[PrefixNode] = field(default_factory=list)
    cacheable: bool = True  # whether its full pages go into the prefix tree
    swapped: SwappedPages | None = None
    padding: int = 0  # tokens in front that lock-step mode fills up, and nobody sees
    in_flight: int = 0
    sample_row: int = 0  # where the newest launched step draws its token, if it does
    done: bool = False

    is_greedy: bool = field(init=False)
    needs_history: bool = field(init=False)  # whether its next token depends on those before

    def __post_init__(self) -> None:
        self.is_greedy = self.constraint is None and is_greedy(self.sampling)
        self.needs_history = self.constraint is not None or needs_history(self.sampling)

    @property
    def generated(self) -> int:
        """Tokens generated so far, here or before it came here."""
        return len(self.tokens) - self.padding - self.prompt_tokens

    @property
    def length(self) -> int:
        """Tokens it has, those being drawn included."""
        return len(self.tokens) + self.in_flight

    @property
    def uncomputed(self) -> int:
        """Tokens not computed yet: 1 while decoding."""
        return len(self.tokens) + self.in_flight - self.computed

    @property
    def at_max_tokens(self) -> bool:
        """Whether it gets no further token than those being drawn."""
        answered = len(self.tokens) + self.in_flight - self.padding - self.prompt_tokens
        return answered >= self.max_tokens

    @property
    def expected_remaining(self) -> int:
        """Tokens it is still expected to generate; one that outgrew that, up to its reservation."""
        expected = self.expected if self.expected > self.generated else self.reserved
        return expected - self.generated


def new_sequence(sequence: Sequence, arrival: int) -> SequenceState:
    """A submitted sequence, about to wait for its turn; `arrival` numbers them in submit order."""
    reserved = min(sequence.reserve, sequence.max_tokens)
    return SequenceState(
        id=sequence.id,
        arrival=arrival,
        tokens=[*sequence.prompt, *sequence.generated],
        prompt_tokens=len(sequence.prompt),
        max_tokens=sequence.max_tokens,
        reserved=reserved,
        expected=reserved,
        stop_ids=frozenset(sequence.stop_ids),
        sampling=sequence.sampling,
        salt=sequence.salt,
        preempt_first=sequence.preempt_first,
    )
