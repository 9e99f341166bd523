"""One sequence on its way through the engine."""

from dataclasses import dataclass, field

from engine.kv.host import Swapped
from engine.kv.prefix import Node
from engine.protocol import Sampling, Sequence
from engine.sampling import GREEDY, Constraint, greedy, looks_back


@dataclass(eq=False, slots=True)
class LiveSequence:
    """Tokens, memory and promise of one sequence; owned by the step loop.

    `computed` tokens have their keys and values in `pages`, or will when the launched steps are
    done; the first pages are those of `nodes`, which other sequences may read too. `ahead` tokens
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

    computed: int = 0
    pages: list[int] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    listing: bool = True  # whether its full pages go into the prefix tree
    swapped: Swapped | None = None
    padding: int = 0  # tokens in front that lock-step mode fills up, and nobody sees
    ahead: int = 0
    drawn: int = 0  # where the newest launched step draws its token, if it does
    done: bool = False

    greedy: bool = field(init=False)
    looks_back: bool = field(init=False)  # whether its next token depends on those before

    def __post_init__(self) -> None:
        self.greedy = self.constraint is None and greedy(self.sampling)
        self.looks_back = self.constraint is not None or looks_back(self.sampling)

    @property
    def generated(self) -> int:
        """Tokens generated so far, here or before it came here."""
        return len(self.tokens) - self.padding - self.prompt_tokens

    @property
    def length(self) -> int:
        """Tokens it has, those being drawn included."""
        return len(self.tokens) + self.ahead

    @property
    def pending(self) -> int:
        """Tokens not computed yet: 1 while decoding."""
        return len(self.tokens) + self.ahead - self.computed

    @property
    def complete(self) -> bool:
        """Whether it gets no further token than those being drawn."""
        answered = len(self.tokens) + self.ahead - self.padding - self.prompt_tokens
        return answered >= self.max_tokens

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
        salt=sequence.salt,
    )
