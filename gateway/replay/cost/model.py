"""What an engine's steps take, as measured on a real one or worked out from a card's figures."""

from math import ceil
from pathlib import Path
from typing import Annotated, Protocol, TypeAlias

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import astuple

from gateway.errors import InvalidRequest, NotFound

Amount: TypeAlias = Annotated[float, Meta(ge=0)]
Size: TypeAlias = Annotated[int, Meta(ge=1)]


class StepCost(Protocol):
    """Seconds of steps. `kv_tokens` are those that the decoding sequences read, each its own."""

    def seconds(
        self, prefill_tokens: int, sequences: int, kv_tokens: float, prompt_reads: float = 0.0
    ) -> float:
        """One step: prompt tokens computed, sequences that decode, KV tokens they read.

        `prompt_reads` are the KV tokens that prompt tokens read, each those before it.
        """

    def run_seconds(self, sequences: int, kv_tokens: float, steps: int) -> float:
        """`steps` steps of decoding in a row, from `kv_tokens` on; each sequence grows a token."""


class LinearCost(Struct, frozen=True, tag="linear", tag_field="kind"):
    """A sum of what each part of a step takes, in seconds."""

    step_s: Amount
    prompt_token_s: Amount
    sequence_s: Amount
    kv_token_s: Amount
    prompt_read_s: Amount = 0.0

    def seconds(
        self, prefill_tokens: int, sequences: int, kv_tokens: float, prompt_reads: float = 0.0
    ) -> float:
        """One step: prompt tokens computed, sequences that decode, KV tokens they read."""
        return (
            self.step_s
            + self.prompt_token_s * prefill_tokens
            + self.sequence_s * sequences
            + self.kv_token_s * kv_tokens
            + self.prompt_read_s * prompt_reads
        )

    def paced(self, factor: float) -> "LinearCost":
        """The cost where everything takes `factor` times as long."""
        return LinearCost(*(factor * part for part in astuple(self)))

    def run_seconds(self, sequences: int, kv_tokens: float, steps: int) -> float:
        """`steps` steps of decoding in a row, from `kv_tokens` on; each sequence grows a token."""
        reads = steps * kv_tokens + sequences * (steps * (steps - 1) // 2)
        return steps * (self.step_s + self.sequence_s * sequences) + self.kv_token_s * reads


class GpuProfile(Struct, frozen=True, tag="gpu", tag_field="kind"):
    """A model on a card: weights and KV are read, or all is computed, whichever takes longer."""

    name: str
    weight_bytes: Amount
    kv_bytes_per_token: Amount
    bandwidth_bytes_s: Annotated[float, Meta(gt=0)]
    flops_s: Annotated[float, Meta(gt=0)]
    parameters: Amount
    overhead_s: Amount
    memory_bytes: Amount

    def seconds(
        self, prefill_tokens: int, sequences: int, kv_tokens: float, prompt_reads: float = 0.0
    ) -> float:
        """One step: prompt tokens computed, sequences that decode, KV tokens they read."""
        del prompt_reads  # published figures tell nothing of it
        return self.overhead_s + max(
            self._reading_s(kv_tokens), self._computing_s(prefill_tokens + sequences)
        )

    def run_seconds(self, sequences: int, kv_tokens: float, steps: int) -> float:
        """`steps` steps of decoding in a row, from `kv_tokens` on; each sequence grows a token.

        Reading grows and computing does not: the first steps are bound by computing, if any are.
        """
        computing_s, first_s = self._computing_s(sequences), self._reading_s(kv_tokens)
        growth_s = self.kv_bytes_per_token * sequences / self.bandwidth_bytes_s
        computing = 0 if first_s >= computing_s else steps
        if computing and growth_s:
            computing = min(steps, ceil((computing_s - first_s) / growth_s))
        reading = steps - computing
        return (
            steps * self.overhead_s
            + computing * computing_s
            + reading * (first_s + growth_s * (computing + steps - 1) / 2)
        )

    def _reading_s(self, kv_tokens: float) -> float:
        kv_bytes = self.kv_bytes_per_token * kv_tokens
        return (self.weight_bytes + kv_bytes) / self.bandwidth_bytes_s

    def _computing_s(self, tokens: int) -> float:
        return 2 * self.parameters * tokens / self.flops_s


class EngineShape(Struct, frozen=True, kw_only=True):
    """What an engine has room for, and how it takes orders.

    A step computes `step_tokens` tokens at most. `swap_token_s` is what it takes to copy a
    preempted token's KV to the host, or back; None where it is computed again. An order is with
    the engine after `order_s`, and heeded `lag_steps` after the end of the step then under way: a
    step is composed while the one before runs, so that of 0 is only for an ideal engine.
    """

    pages: Size
    page_tokens: Size
    step_tokens: Size = 512
    max_sequences: Size | None = None
    context_tokens: Size
    swap_token_s: Amount | None = None
    lag_steps: Annotated[int, Meta(ge=0)] = 1
    order_s: Amount = 0.0

    @property
    def most_tokens(self) -> int:
        """Tokens of the longest sequence, prompt and answer."""
        return min(self.context_tokens, self.pages * self.page_tokens)

    @property
    def most_sequences(self) -> int:
        """Sequences that run at once at most."""
        return min(self.step_tokens, self.max_sequences or self.step_tokens)

    @property
    def ghost_steps(self) -> int:
        """Steps that go on with a sequence after its last token, which nobody had seen yet."""
        return min(self.lag_steps, 1)


class EngineModel(Struct, frozen=True, kw_only=True):
    """An engine as a replay needs it: what a calibration file holds."""

    cost: LinearCost | GpuProfile
    shape: EngineShape


def read_engine(path: Path) -> EngineModel:
    """The engine in a calibration file. NotFound or InvalidRequest say what is wrong with it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=EngineModel)
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"{path} describes no engine: {error}") from error
