"""The state of one sequence in the engine."""

from dataclasses import dataclass, field

from engine.grammar.automaton import Automaton
from engine.kv.host import SwappedPages
from engine.kv.node import PrefixNode
from engine.offload.sequence import OffloadedSequence
from engine.protocol import BACKGROUND, Grammar, KvPlacement, Sampling, Sequence
from engine.sampling import GREEDY, is_greedy, needs_history


@dataclass(eq=False, slots=True)
class SequenceState:
    """Tokens, memory and reservation of one sequence; owned by the step loop.

    The keys and values of `computed` tokens are in `pages` once the launched steps are done; the
    first pages are those of `nodes`, which other sequences may share. `in_flight` tokens are being
    sampled and are not in `tokens` yet. `reserved` is the generation length that memory is reserved
    for; `expected`, the current estimate, only affects the choice of preempted sequences. `reused`
    tokens were read from pages that were computed for others; None before it starts. With another
    `memory` than the device, `pages` are of the offload pool, and `offloaded` is what the model
    keeps of it while it runs.
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
    grammar: Grammar | None = None
    automaton: Automaton | None = None  # of its grammar, once that is compiled
    salt: str = ""
    preempt_first: int = 0  # the highest is preempted first and starts last
    memory: KvPlacement = "device"

    computed: int = 0
    reused: int | None = None
    reuse_reported: bool = False
    pages: list[int] = field(default_factory=list)
    nodes: list[PrefixNode] = field(default_factory=list)
    cacheable: bool = True  # whether full pages go into the prefix tree
    swapped: SwappedPages | None = None
    padding: int = 0  # padding tokens in front, in lock-step mode
    in_flight: int = 0
    sample_row: int = 0  # row of its token among the samples of the newest launched step
    last_turn: int = 0  # the newest one it had, where a step cannot hold all
    done: bool = False
    offloaded: OffloadedSequence | None = None

    is_greedy: bool = field(init=False)
    needs_history: bool = field(init=False)  # whether sampling depends on earlier tokens

    def __post_init__(self) -> None:
        self.is_greedy = self.grammar is None and is_greedy(self.sampling)
        self.needs_history = needs_history(self.sampling)

    @property
    def on_host(self) -> bool:
        """Whether its keys and values are in host memory."""
        return self.memory != "device"

    @property
    def background(self) -> bool:
        """Whether it takes only what others leave."""
        return self.preempt_first >= BACKGROUND

    @property
    def generated(self) -> int:
        """Tokens generated so far, including those before submission."""
        return len(self.tokens) - self.padding - self.prompt_tokens

    @property
    def length(self) -> int:
        """The number of tokens, including those in flight."""
        return len(self.tokens) + self.in_flight

    @property
    def uncomputed(self) -> int:
        """The number of tokens not computed yet: 1 while decoding."""
        return len(self.tokens) + self.in_flight - self.computed

    @property
    def at_max_tokens(self) -> bool:
        """Whether it reaches `max_tokens` with the tokens in flight."""
        generated = len(self.tokens) + self.in_flight - self.padding - self.prompt_tokens
        return generated >= self.max_tokens

    @property
    def ready(self) -> bool:
        """Whether the next step can compute it."""
        return not self.at_max_tokens

    def extend_reservation(self) -> bool:
        """Double the reservation if it is outgrown; whether it was."""
        generated = self.generated + self.in_flight
        if self.at_max_tokens or generated < self.reserved:
            return False
        self.reserved = min(2 * generated, self.max_tokens)
        return True

    @property
    def expected_remaining(self) -> int:
        """Tokens still expected; up to the reservation if it has outgrown the estimate."""
        expected = self.expected if self.expected > self.generated else self.reserved
        return expected - self.generated


def new_sequence(sequence: Sequence, arrival: int) -> SequenceState:
    """The initial state of a submitted sequence; `arrival` numbers them in submit order."""
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
        grammar=sequence.grammar,
        memory=sequence.memory,
    )
