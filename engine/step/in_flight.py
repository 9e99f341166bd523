"""A step between its launch and its tokens."""

from collections.abc import Callable
from concurrent.futures import Future
from time import perf_counter
from typing import NamedTuple, Protocol, Self

import torch

from engine.protocol import StepTimes
from engine.sampling import PendingOutput, SampledToken, SamplingBatch, read_tokens
from engine.step.composer import StepPlan


class Moment(Protocol):
    """A moment on the device where the model runs."""

    def wait(self) -> None:
        """Wait until the device is there."""

    def seconds_until(self, later: Self) -> float:
        """Seconds from here to a later moment; both must have passed."""


class HostMoment:
    """A moment of a device that is done when the call is: a CPU."""

    def __init__(self) -> None:
        self.at_s = perf_counter()

    def wait(self) -> None:
        """It has."""

    def seconds_until(self, later: Self) -> float:
        """Seconds from here to a later moment."""
        return later.at_s - self.at_s


class CudaMoment:
    """A moment in a CUDA stream's work."""

    def __init__(self) -> None:
        self._event = torch.cuda.Event(enable_timing=True)
        self._event.record()

    def wait(self) -> None:
        """Wait until the stream's work before this moment is done."""
        self._event.synchronize()

    def seconds_until(self, later: Self) -> float:
        """Seconds from here to a later moment of the same stream."""
        return float(self._event.elapsed_time(later._event)) / 1000


class Executed(NamedTuple):
    """A step handed to the device, and the moments of its parts there."""

    pending: PendingOutput
    began: Moment
    copied: Moment
    ended: Moment


class InFlightStep:
    """A launched step, until it has landed.

    `previous` is the step that was under way when this one was launched, `started_s` when composing
    this one began.
    """

    def __init__(
        self,
        plan: StepPlan,
        batch: SamplingBatch,
        executed: "Future[Executed]",
        *,
        previous: "InFlightStep | None",
        started_s: float,
        composed_s: float,
    ) -> None:
        self.plan = plan
        self.tokens = sum(chunk.length for chunk in plan.chunks)
        self.took_s = 0.0
        self.finished_s = 0.0
        self._launched_s = perf_counter()
        self._started_s = started_s
        self._compose_s = composed_s - started_s
        self._pack_s = self._launched_s - composed_s
        self._batch = batch
        self._executed = executed
        self._previous_step = previous
        self.ended: Moment | None = None
        self.times = StepTimes(self._compose_s, self._pack_s, 0.0, 0.0, 0.0)

    @property
    def prefilled(self) -> int:
        """Tokens of the step where most of them are prompts', else 0."""
        prompts = sum(chunk.length for chunk in self.plan.chunks if chunk.length > 1)
        return self.tokens if 2 * prompts > self.tokens else 0

    @property
    def copied(self) -> int:
        """Pages moved between device and host before the step ran."""
        copies = self.plan.copies
        return sum(len(pages) for _, pages in (*copies.swap_out, *copies.swap_in))

    @property
    def age_s(self) -> float:
        """Seconds since the model could begin with it."""
        previous = self._previous_step
        return perf_counter() - max(self._launched_s, previous.finished_s if previous else 0.0)

    def result(self) -> list[SampledToken]:
        """Wait for the step; what it drew, in the order of its completing chunks.

        Raises what the step raised; OutOfMemory where the device had no room for it.
        """
        executed = self._executed.result()
        executed.ended.wait()
        self.finished_s = perf_counter()
        self.ended = executed.ended
        self._measure(executed)
        self._previous_step = None
        return read_tokens(executed.pending, self._batch)

    def drain(self) -> None:
        """Wait for the step, whatever becomes of it."""
        self._executed.exception()

    def _measure(self, executed: Executed) -> None:
        previous = self._previous_step.ended if self._previous_step is not None else None
        copy_s = executed.began.seconds_until(executed.copied)
        model_s = executed.copied.seconds_until(executed.ended)
        idle_s = (
            previous.seconds_until(executed.began) if previous else self._compose_s + self._pack_s
        )
        self.took_s = idle_s + copy_s + model_s
        self.times = StepTimes(self._compose_s, self._pack_s, copy_s, model_s, max(0.0, idle_s))


def moment_type(device: torch.device) -> Callable[[], Moment]:
    """The clock of a device."""
    return CudaMoment if device.type == "cuda" else HostMoment
