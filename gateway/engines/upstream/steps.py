"""Groups what streams deliver at about the same time into steps, as an engine reports them."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

from engine.protocol import BACKGROUND, Finish, KvState, SequenceId, Step
from gateway.engines.interface import EngineListener
from gateway.engines.upstream.sequence_stream import SequenceStream
from gateway.engines.upstream.step_counter import StepCounter

GROUP_S: Final = 0.002  # a server's streams deliver a step's tokens one after the other


class StepGrouper:
    """Collects tokens and ends, and hands them to the listener as one step."""

    def __init__(
        self,
        listener: EngineListener,
        active: Mapping[SequenceId, SequenceStream],
        kv: Callable[[], KvState],
        limit: Callable[[], int],
        counter: StepCounter,
    ) -> None:
        """`active`: the streams at the server, kept current by their owner."""
        self._listener = listener
        self._counter = counter
        self._kv = kv
        self._limit = limit
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._grown: dict[SequenceId, SequenceStream] = {}
        self._first: list[SequenceStream] = []
        self._finished: list[Finish] = []
        self._preempted: list[SequenceId] = []
        self._active = active
        self.retries = 0
        self.preemptions = 0

    def forget(self, stream: SequenceStream) -> None:
        """Hand nothing more over of this sequence."""
        self._grown.pop(stream.sequence.id, None)
        if stream in self._first:
            self._first.remove(stream)

    def starting(self, stream: SequenceStream, now_s: float) -> None:
        """A stream is opened: without others, the server's next step begins now."""
        alone = all(each is stream for each in self._active.values())
        if alone and not self._grown:
            self._counter.begin(now_s)

    def grew(self, stream: SequenceStream, *, first: bool) -> None:
        """A stream has new tokens, its `first` since it was submitted or not."""
        self._grown[stream.sequence.id] = stream
        if first:
            self._first.append(stream)
        self._soon()

    def ended(self, stream: SequenceStream, end: Finish) -> None:
        """A sequence ended."""
        if stream.fresh:
            self._grown[stream.sequence.id] = stream
        self._finished.append(end)
        self._soon()

    def preempted(self, stream: SequenceStream) -> None:
        """A sequence was taken from the server."""
        self._preempted.append(stream.sequence.id)
        self._soon()

    def _soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GROUP_S, self.flush)

    def flush(self) -> None:
        """Hand over what there is."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        now_s = time.monotonic()
        grown, first = list(self._grown.values()), self._first
        finished, preempted = self._finished, self._preempted
        self._grown, self._first, self._finished, self._preempted = {}, [], [], []
        running = [stream for stream in self._active.values() if stream.running]
        counted = self._counter.count(now_s, grown, first, running)
        work = counted.work if counted else None
        self._number += 1
        step = Step(
            number=self._number,
            kv=self._kv(),
            logprobs={s.sequence.id: s.scored for s in grown if s.scored},
            tokens={s.sequence.id: s.take() for s in grown},
            finished=finished,
            preempted=preempted,
            running=len(running),
            waiting=len(self._active) - len(running),
            background_rows=max(1, self._limit() - _interactive(self._active)),
            max_running=self._limit(),
            computed=work.prompt_tokens + work.sequences if work else 0,
            steps=counted.steps if counted else 0,
            took_s=counted.took_s if counted else 0.0,
            work=work,
            unnamed_preemptions=self.preemptions,
            retries=self.retries,
        )
        self.retries = self.preemptions = 0
        for stream in grown:
            stream.scored = []
        self._listener.engine_stepped(step)


def _interactive(active: Mapping[SequenceId, SequenceStream]) -> int:
    return sum(stream.preempt_first < BACKGROUND for stream in active.values())
