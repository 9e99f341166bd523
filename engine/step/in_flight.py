"""A step in flight: launched, its tokens not yet read."""

from collections.abc import Callable, Collection
from concurrent.futures import Future
from functools import cached_property
from time import perf_counter
from typing import NamedTuple, Protocol, Self

import torch

from engine.protocol import HostWork, StepTimes, StepWork
from engine.sampling import PendingOutput, SampledToken, SamplingBatch, read_tokens
from engine.step.chunks import StepPlan, host_work_of, reads_host, work_of


class Moment(Protocol):
    """A point in time on the model's device."""

    def wait(self) -> None:
        """Wait until the device has reached it."""

    def seconds_until(self, later: Self) -> float:
        """Seconds from here to a later moment; the device must have reached both."""


class HostMoment:
    """A point in time on a CPU, where calls are synchronous."""

    def __init__(self) -> None:
        self.at_s = perf_counter()

    def wait(self) -> None:
        """Return at once: a CPU has always reached it."""

    def seconds_until(self, later: Self) -> float:
        """Seconds from here to a later moment."""
        return later.at_s - self.at_s


class CudaMoment:
    """A point in time on a CUDA stream."""

    def __init__(self) -> None:
        self._event = torch.cuda.Event(enable_timing=True)
        self._event.record()

    def wait(self) -> None:
        """Wait for the stream's earlier work."""
        self._event.synchronize()

    def seconds_until(self, later: Self) -> float:
        """Seconds from here to a later moment of the same stream."""
        return float(self._event.elapsed_time(later._event)) / 1000


class Executed(NamedTuple):
    """A step on the device: its pending output and the times of its phases.

    `complete` are the rows whose texts their grammars end with the sampled token; `fetched_bytes`
    is what sequences in host memory copied to the device.
    """

    pending: PendingOutput
    began: Moment
    copied: Moment
    ended: Moment
    complete: "Future[Collection[int]] | None" = None
    fetched_bytes: int = 0


class InFlightStep:
    """A launched step, until its tokens are read.

    `previous`: the step in flight when this one was launched. `started_s`: start of composition.
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
        self.fetched_bytes = 0
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
        """Tokens of the step if most of them belong to prompts, else 0."""
        prompts = sum(chunk.length for chunk in self.plan.chunks if chunk.length > 1)
        return self.tokens if 2 * prompts > self.tokens else 0

    @cached_property
    def work(self) -> StepWork | None:
        """What it computes; None with sequences in host memory, whose time depends on more."""
        return None if reads_host(self.plan.chunks) else work_of(self.plan.chunks)

    @cached_property
    def host_work(self) -> HostWork | None:
        """What it computes with sequences in host memory; None without any."""
        return host_work_of(self.plan.chunks) if reads_host(self.plan.chunks) else None

    @property
    def copied(self) -> int:
        """Pages copied between device and host before the step."""
        copies = self.plan.copies
        return sum(len(pages) for _, pages in (*copies.swap_out, *copies.swap_in))

    @property
    def age_s(self) -> float:
        """Seconds since the model could start it."""
        previous = self._previous_step
        return perf_counter() - max(self._launched_s, previous.finished_s if previous else 0.0)

    def result(self) -> list[SampledToken]:
        """Wait for the step; its sampled tokens, in the order of its chunks that sample one.

        Raises what the step raised; OutOfMemory if it did not fit the device.
        """
        executed = self._executed.result()
        executed.ended.wait()
        self.finished_s = perf_counter()
        self.ended = executed.ended
        self.fetched_bytes = executed.fetched_bytes
        self._measure(executed)
        self._previous_step = None
        tokens = read_tokens(executed.pending, self._batch)
        for row in executed.complete.result() if executed.complete else ():
            tokens[row] = tokens[row]._replace(complete=True)
        return tokens

    def drain(self) -> None:
        """Wait for the end of the step and ignore its result."""
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
    """The class of moments for a device."""
    return CudaMoment if device.type == "cuda" else HostMoment
