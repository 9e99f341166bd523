"""Calibration trials for an engine of a given shape, which separate the parts of a step's cost.

They are batches that decode at several lengths, prompts of several sizes while sequences decode,
and prompts longer than a step. One more trial, a mix, is not fitted but predicted, as a test.
"""

from collections.abc import Iterator, Sequence
from math import ceil
from random import Random
from typing import Final

from msgspec import Struct

from gateway.replay.cost.model import EngineShape

MIX: Final = "mix"
BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64)
KV_LENGTHS: Final = (16, 128, 512, 1024, 4096)  # KV tokens of each decoding sequence
PROMPT_SIZES: Final = (16, 64, 128, 256, 512)
DECODING_COUNTS: Final = (1, 8)  # sequences that decode while prompts come
DECODE_STEPS: Final = 24  # of decoding alone
PROMPTS_PER_SIZE: Final = 6  # arrivals of a prompt, for each size
STEPS_BETWEEN_PROMPTS: Final = 5  # a prompt has begun before the next one comes
WARM_UP_STEPS: Final = 8  # until all sequences decode
MAX_POOL_SHARE: Final = 0.9  # of the pool: no sequence waits, none is preempted
MIX_SEQUENCES: Final = 32
MIX_ARRIVAL_STEPS: Final = 160
ROUNDS: Final = 2
SEED: Final = 5


class TrialArrival(Struct, frozen=True):
    """A sequence to submit once `after_steps` steps of its trial have been seen."""

    prompt_tokens: int
    generation_tokens: int
    after_steps: int = 0


class Trial(Struct, frozen=True):
    """Sequences that run together, on an engine without other work."""

    name: str
    arrivals: tuple[TrialArrival, ...]

    @property
    def tokens(self) -> int:
        """Tokens to compute, summed."""
        return sum(each.prompt_tokens + each.generation_tokens for each in self.arrivals)


def design_trials(shape: EngineShape) -> list[Trial]:
    """Trials that an engine of this shape can run: the mix first, then from small to large.

    There are `ROUNDS` rounds of them, so that a disturbance rarely hits every run of a trial.
    """
    capacity = _Capacity(shape)
    trials = [*_decoding(capacity), *_prompts_while_decoding(capacity), *_long_prompts(capacity)]
    trials.sort(key=lambda trial: trial.tokens)
    return [_mix(capacity), *trials] * ROUNDS


class _Capacity:
    """The limits of the engine that a trial must fit."""

    def __init__(self, shape: EngineShape) -> None:
        self.step_tokens = shape.step_tokens
        self.context_tokens = shape.context_tokens
        self._pages = int(MAX_POOL_SHARE * shape.pages)
        self._page_tokens = shape.page_tokens
        self._sequences = min(shape.max_sequences or shape.step_tokens, shape.step_tokens)

    def holds(self, arrivals: Sequence[TrialArrival]) -> bool:
        """Whether all of these can run at the same time."""
        lengths = [each.prompt_tokens + each.generation_tokens for each in arrivals]
        pages = sum(ceil(length / self._page_tokens) for length in lengths)
        return (
            len(lengths) <= self._sequences
            and max(lengths) <= self.context_tokens
            and pages <= self._pages
        )


def _decoding(capacity: _Capacity) -> Iterator[Trial]:
    """Batches that decode `DECODE_STEPS` steps at each length, after all prompts are computed."""
    for length in KV_LENGTHS:
        for batch in BATCH_SIZES:
            if batch < capacity.step_tokens:
                prefill = ceil(batch * length / (capacity.step_tokens - batch))
                arrivals = (TrialArrival(length, DECODE_STEPS + WARM_UP_STEPS + prefill),) * batch
                if capacity.holds(arrivals):
                    yield Trial(f"{batch} decode at {length}", arrivals)


def _prompts_while_decoding(capacity: _Capacity) -> Iterator[Trial]:
    """A prompt every few steps, while a few sequences decode."""
    for decoding_count in DECODING_COUNTS:
        largest = capacity.step_tokens - decoding_count
        for size in sorted({min(size, largest) for size in PROMPT_SIZES}):
            decoding = (
                TrialArrival(16, 2 * WARM_UP_STEPS + PROMPTS_PER_SIZE * STEPS_BETWEEN_PROMPTS),
            ) * decoding_count
            prompts = (
                TrialArrival(size, 1, WARM_UP_STEPS + STEPS_BETWEEN_PROMPTS * time)
                for time in range(PROMPTS_PER_SIZE)
            )
            arrivals = (*decoding, *prompts)
            if size > 0 and capacity.holds(arrivals):
                yield Trial(f"prompts of {size}, {decoding_count} decoding", arrivals)


def _long_prompts(capacity: _Capacity) -> Iterator[Trial]:
    """Single prompts that take several whole steps."""
    for chunks in (2, 4):
        length = min(chunks * capacity.step_tokens, capacity.context_tokens - 1)
        arrivals = (TrialArrival(length, 1),)
        if length > capacity.step_tokens and capacity.holds(arrivals):
            yield Trial(f"prompt of {length}", arrivals)


def _mix(capacity: _Capacity) -> Trial:
    """Sequences of many lengths that arrive and end during the trial, as many as fit."""
    rng = Random(SEED)
    longest = max(capacity.context_tokens // 2, 1)
    arrivals = [
        TrialArrival(
            min(max(round(rng.lognormvariate(4.4, 0.8)), 8), longest),
            min(max(round(rng.lognormvariate(3.4, 0.6)), 4), longest),
            rng.randrange(MIX_ARRIVAL_STEPS),
        )
        for _ in range(MIX_SEQUENCES)
    ]
    while len(arrivals) > 1 and not capacity.holds(arrivals):
        arrivals.pop()
    return Trial(MIX, tuple(arrivals))
