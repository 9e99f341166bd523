"""Groups what streams deliver at about the same time into steps, as an engine reports them."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

from engine.protocol import BACKGROUND, Finish, KvState, SequenceId, Step, StepWork
from gateway.engines.interface import EngineListener
from gateway.engines.upstream.sequence_stream import SequenceStream

GROUP_S: Final = 0.002  # a server's streams deliver a step's tokens one after the other


class StepGrouper:
    """Collects tokens and ends, and hands them to the listener as one step."""

    def __init__(
        self,
        listener: EngineListener,
        active: Mapping[SequenceId, SequenceStream],
        kv: Callable[[], KvState],
        limit: Callable[[], int],
    ) -> None:
        """`active`: the streams at the server, kept current by their owner."""
        self._listener = listener
        self._kv = kv
        self._limit = limit
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._grown: dict[SequenceId, SequenceStream] = {}
        self._first: list[SequenceStream] = []
        self._finished: list[Finish] = []
        self._preempted: list[SequenceId] = []
        self._active = active
        self._began_s = 0.0
        self.retries = 0
        self.preemptions = 0

    def forget(self, stream: SequenceStream) -> None:
        """Hand nothing more over of this sequence."""
        self._grown.pop(stream.sequence.id, None)
        if stream in self._first:
            self._first.remove(stream)

    def starting(self, now_s: float) -> None:
        """A sequence is submitted: without others, the server's next step begins now."""
        if not self._active:
            self._began_s = now_s

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
        work = _work(grown, first)
        running = sum(stream.running for stream in self._active.values())
        self._number += 1
        took_s, self._began_s = now_s - self._began_s, now_s
        step = Step(
            number=self._number,
            kv=self._kv(),
            logprobs={s.sequence.id: s.scored for s in grown if s.scored},
            tokens={s.sequence.id: s.take() for s in grown},
            finished=finished,
            preempted=preempted,
            running=running,
            waiting=len(self._active) - running,
            background_rows=max(1, self._limit() - _interactive(self._active)),
            max_running=self._limit(),
            computed=work.prompt_tokens + work.sequences,
            took_s=took_s if grown else 0.0,
            work=work if grown else None,
            unnamed_preemptions=self.preemptions,
            retries=self.retries,
        )
        self.retries = self.preemptions = 0
        for stream in grown:
            stream.scored = []
        self._listener.engine_stepped(step)


def _work(grown: list[SequenceStream], first: list[SequenceStream]) -> StepWork:
    """What the server computed, as far as it shows: prompts are counted with the first token."""
    prompts = [len(stream.sequence.prompt) for stream in first]
    return StepWork(
        prompt_tokens=sum(prompts),
        prompt_reads=sum(length * length / 2 for length in prompts),
        sequences=len(grown),
        kv_tokens=sum(stream.kv_tokens for stream in grown),
    )


def _interactive(active: Mapping[SequenceId, SequenceStream]) -> int:
    return sum(stream.preempt_first < BACKGROUND for stream in active.values())
