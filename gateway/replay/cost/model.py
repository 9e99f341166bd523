"""The time of an engine's steps, as measured on a real one or from a card's published figures."""

from math import ceil, inf
from pathlib import Path
from typing import Annotated, Final, Protocol, TypeAlias

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import astuple, replace

from gateway.errors import InvalidRequest, NotFound
from gateway.scheduling.admission.prices import EngineCost, LinearStepTime, StepTime

NonNegative: TypeAlias = Annotated[float, Meta(ge=0)]
PositiveInt: TypeAlias = Annotated[int, Meta(ge=1)]

LEAST_ROWS: Final = 16  # of background work, that run whatever a fit says
FULL_SPEED: Final = 0.9  # of the tokens per second that any number of rows reaches


class StepCost(StepTime, Protocol):
    """The time of steps.

    `kv_tokens` is the KV tokens read by decoding sequences, summed: in `run_seconds`, by the first
    step. After it each step reads one token more for each sequence.
    """

    def run_seconds(self, sequences: int, kv_tokens: float, steps: int) -> float:
        """Seconds of `steps` decode steps, each reading a KV token a sequence more."""

    @property
    def full_rows(self) -> float:
        """Sequences with which decoding reaches `FULL_SPEED`, whatever KV tokens they read."""


class LinearCost(LinearStepTime, frozen=True, tag="linear", tag_field="kind"):
    """A step time that is linear in what the step computes; coefficients in seconds."""

    def scaled(self, factor: float) -> "LinearCost":
        """The cost with every coefficient multiplied by `factor`."""
        return LinearCost(*(factor * part for part in astuple(self)))

    def run_seconds(self, sequences: int, kv_tokens: float, steps: int) -> float:
        """Seconds of `steps` decode steps, each reading a KV token a sequence more."""
        reads = steps * kv_tokens + sequences * (steps * (steps - 1) // 2)
        return steps * (self.step_s + self.sequence_s * sequences) + self.kv_token_s * reads

    @property
    def full_rows(self) -> float:
        """Sequences with which decoding reaches `FULL_SPEED`; infinite if they take no time."""
        return _full_rows(self.step_s, self.sequence_s)


class GpuProfile(Struct, frozen=True, tag="gpu", tag_field="kind"):
    """A model on a card: a step takes the longer of reading weights and KV, and computing."""

    name: str
    weight_bytes: NonNegative
    kv_bytes_per_token: NonNegative
    bandwidth_bytes_s: Annotated[float, Meta(gt=0)]
    flops_s: Annotated[float, Meta(gt=0)]
    parameters: NonNegative
    overhead_s: NonNegative
    memory_bytes: NonNegative

    def seconds(
        self, prefill_tokens: int, sequences: int, kv_tokens: float, prompt_reads: float = 0.0
    ) -> float:
        """Seconds of a step: prompt tokens computed, decoding sequences, KV tokens they read."""
        del prompt_reads  # no published figure covers them
        return self.overhead_s + max(
            self._memory_s(kv_tokens), self._compute_s(prefill_tokens + sequences)
        )

    def run_seconds(self, sequences: int, kv_tokens: float, steps: int) -> float:
        """Seconds of `steps` decode steps, each reading a KV token a sequence more.

        Memory reads grow and computing does not, so compute-bound steps come first, if any.
        """
        compute_s, first_s = self._compute_s(sequences), self._memory_s(kv_tokens)
        growth_s = self.kv_bytes_per_token * sequences / self.bandwidth_bytes_s
        compute_bound = 0 if first_s >= compute_s else steps
        if compute_bound and growth_s:
            compute_bound = min(steps, ceil((compute_s - first_s) / growth_s))
        memory_bound = steps - compute_bound
        return (
            steps * self.overhead_s
            + compute_bound * compute_s
            + memory_bound * (first_s + growth_s * (compute_bound + steps - 1) / 2)
        )

    def scaled(self, factor: float) -> "GpuProfile":
        """The cost with every time multiplied by `factor`."""
        return replace(
            self,
            bandwidth_bytes_s=self.bandwidth_bytes_s / factor,
            flops_s=self.flops_s / factor,
            overhead_s=self.overhead_s * factor,
        )

    @property
    def full_rows(self) -> float:
        """Sequences with which decoding reaches `FULL_SPEED`, or with which computing begins to
        take longer than reading the weights: until there each adds its share in full.
        """
        row_s = self._compute_s(1)
        balanced = self._memory_s(0) / row_s if row_s else inf
        return max(balanced, _full_rows(self.overhead_s, row_s))

    def _memory_s(self, kv_tokens: float) -> float:
        kv_bytes = self.kv_bytes_per_token * kv_tokens
        return (self.weight_bytes + kv_bytes) / self.bandwidth_bytes_s

    def _compute_s(self, tokens: int) -> float:
        return 2 * self.parameters * tokens / self.flops_s


def _full_rows(step_s: float, row_s: float) -> float:
    """The n at which n / (step_s + row_s n) is `FULL_SPEED` of 1 / row_s, as in the engine."""
    return step_s / row_s * FULL_SPEED / (1 - FULL_SPEED) if row_s else inf


class EngineShape(Struct, frozen=True, kw_only=True):
    """An engine's limits, and its delay in taking submissions.

    A step computes at most `step_tokens` tokens. `swap_token_s` is the time to copy the KV of a
    preempted token to the host, or back; None if it is computed again. A submission reaches the
    engine after `submit_delay_s` (`order_s` in a calibration file), and is taken `lag_steps` after
    the end of the step that runs then: a step is composed while the previous one runs, so only an
    ideal engine has a lag of 0. Pinned prefixes take at most `pin_share` of the pages; a step with
    background work takes at most `background_factor` times its time without. `max_sequences` bounds
    interactive sequences.
    """

    pages: PositiveInt
    page_tokens: PositiveInt
    step_tokens: PositiveInt = 512
    max_sequences: PositiveInt | None = None
    context_tokens: PositiveInt
    swap_token_s: NonNegative | None = None
    lag_steps: Annotated[int, Meta(ge=0)] = 1
    submit_delay_s: NonNegative = field(default=0.0, name="order_s")
    pin_share: Annotated[float, Meta(ge=0, le=1)] = 0.9
    background_factor: Annotated[float, Meta(ge=1)] = 1.1

    @property
    def max_sequence_tokens(self) -> int:
        """The most tokens of one sequence, prompt and answer together."""
        return min(self.context_tokens, self.pages * self.page_tokens)

    @property
    def max_running_sequences(self) -> int:
        """The most interactive sequences that run at once."""
        return self.max_sequences or self.step_tokens

    @property
    def max_interactive_sequences(self) -> int:
        """The same in replay, where their decoding fits one step: they take no turns."""
        return min(self.step_tokens, self.max_running_sequences)

    @property
    def ghost_steps(self) -> int:
        """Steps still composed with a sequence after its last token, before its end is noticed."""
        return min(self.lag_steps, 1)


class EngineModel(Struct, frozen=True, kw_only=True):
    """An engine for a replay: the content of a calibration file."""

    cost: LinearCost | GpuProfile
    shape: EngineShape

    @property
    def admission_cost(self) -> EngineCost:
        """What admission weighs by."""
        return EngineCost(self.cost, self.shape.step_tokens, self.shape.swap_token_s)

    def at_speed(self, speed: float) -> "EngineModel":
        """The engine with steps that take 1/`speed` of the time."""
        return self if speed == 1 else replace(self, cost=self.cost.scaled(1 / speed))

    @property
    def most_background(self) -> int:
        """The most background sequences that run at once, whatever the memory holds."""
        return int(min(max(self.cost.full_rows, LEAST_ROWS), self.shape.step_tokens))


class NamedEngine(Struct, frozen=True):
    """An engine for a replay, and its name for the user."""

    model: EngineModel
    name: str


def read_engine(path: Path) -> EngineModel:
    """The engine of a calibration file. NotFound or InvalidRequest name the problem."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=EngineModel)
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} describes no engine: {error}") from error
