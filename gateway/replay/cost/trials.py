"""Trials that tell the parts of a step's cost apart, for an engine of a given shape.

Batches that decode at several lengths, prompts of several sizes beside sequences that decode,
prompts longer than a step. One more, a mix, is there to be foretold.
"""

from collections.abc import Iterator, Sequence
from math import ceil
from random import Random
from typing import Final

from msgspec import Struct

from gateway.replay.cost.model import EngineShape

MIX: Final = "mix"
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64)
LENGTHS: Final = (16, 128, 512, 1024, 4096)  # KV tokens of each sequence that decodes
PROMPTS: Final = (16, 64, 128, 256, 512)
BESIDE: Final = (1, 8)  # sequences that decode beside a prompt
STEPS: Final = 24  # of pure decode
TIMES: Final = 6  # that a prompt of each size comes
APART: Final = 5  # steps between two of these: one has begun before the next comes
SETTLED: Final = 8  # steps until everyone decodes
FILLED: Final = 0.9  # of the pool at most: nobody waits, nobody is preempted
MIXED: Final = 32  # sequences in the mix
WITHIN: Final = 160  # steps in which they come
ROUNDS: Final = 2
SEED: Final = 5


class Arrival(Struct, frozen=True):
    """A sequence to submit once so many steps of its trial have been seen."""

    prompt_tokens: int
    generation_tokens: int
    after_steps: int = 0


class Trial(Struct, frozen=True):
    """Sequences that run together, with nothing beside them."""

    name: str
    arrivals: tuple[Arrival, ...]

    @property
    def tokens(self) -> int:
        """Tokens to compute in all."""
        return sum(each.prompt_tokens + each.generation_tokens for each in self.arrivals)


def design(shape: EngineShape) -> list[Trial]:
    """Trials that an engine of this shape can run, the mix first, then from small to large.

    All of them twice, one round after the other: what disturbs one seldom disturbs the other.
    """
    room = _Room(shape)
    trials = [*_decoding(room), *_prompts_beside(room), *_long_prompts(room)]
    trials.sort(key=lambda trial: trial.tokens)
    return [_mix(room), *trials] * ROUNDS


class _Room:
    """What of a trial fits the engine."""

    def __init__(self, shape: EngineShape) -> None:
        self.step_tokens = shape.step_tokens
        self.context_tokens = shape.context_tokens
        self._pages = int(FILLED * shape.pages)
        self._page_tokens = shape.page_tokens
        self._sequences = min(shape.max_sequences or shape.step_tokens, shape.step_tokens)

    def holds(self, arrivals: Sequence[Arrival]) -> bool:
        """Whether all of these can run at once."""
        lengths = [each.prompt_tokens + each.generation_tokens for each in arrivals]
        pages = sum(ceil(length / self._page_tokens) for length in lengths)
        return (
            len(lengths) <= self._sequences
            and max(lengths) <= self.context_tokens
            and pages <= self._pages
        )


def _decoding(room: _Room) -> Iterator[Trial]:
    """Batches that decode for a while at each length once all their prompts are computed."""
    for length in LENGTHS:
        for batch in BATCHES:
            if batch < room.step_tokens:
                prefill = ceil(batch * length / (room.step_tokens - batch))
                arrivals = (Arrival(length, STEPS + SETTLED + prefill),) * batch
                if room.holds(arrivals):
                    yield Trial(f"{batch} decode at {length}", arrivals)


def _prompts_beside(room: _Room) -> Iterator[Trial]:
    """A prompt every few steps beside a few sequences that decode."""
    for beside in BESIDE:
        for size in sorted({min(size, room.step_tokens - beside) for size in PROMPTS}):
            steady = (Arrival(16, 2 * SETTLED + TIMES * APART),) * beside
            prompts = (Arrival(size, 1, SETTLED + APART * time) for time in range(TIMES))
            arrivals = (*steady, *prompts)
            if size > 0 and room.holds(arrivals):
                yield Trial(f"prompts of {size} beside {beside}", arrivals)


def _long_prompts(room: _Room) -> Iterator[Trial]:
    """Prompts that take several whole steps."""
    for chunks in (2, 4):
        length = min(chunks * room.step_tokens, room.context_tokens - 1)
        arrivals = (Arrival(length, 1),)
        if length > room.step_tokens and room.holds(arrivals):
            yield Trial(f"prompt of {length}", arrivals)


def _mix(room: _Room) -> Trial:
    """Sequences of all lengths that come and go, as many as there is room for."""
    rng = Random(SEED)
    longest = max(room.context_tokens // 2, 1)
    arrivals = [
        Arrival(
            min(max(round(rng.lognormvariate(4.4, 0.8)), 8), longest),
            min(max(round(rng.lognormvariate(3.4, 0.6)), 4), longest),
            rng.randrange(WITHIN),
        )
        for _ in range(MIXED)
    ]
    while len(arrivals) > 1 and not room.holds(arrivals):
        arrivals.pop()
    return Trial(MIX, tuple(arrivals))
