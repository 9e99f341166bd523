"""The one gateway session whose sequences run."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

from engine.errors import ConflictingCall
from engine.protocol import (
    Cancel,
    Drain,
    EngineInfo,
    Operation,
    Refused,
    Resume,
    Sequence,
    Step,
    Submission,
    SubmitBatch,
    Submitted,
)
from engine.service.events import EventLog, EventReader
from engine.service.validation import refusal
from engine.step.commands import Forget, Order, Start, Stop
from engine.step.seen_ids import KnownSequences

GONE_S: Final = 5.0
REPLACED: Final = 1024
DRAINING: Final = "the engine is draining: it takes no new sequences until it is resumed"

log = structlog.get_logger()


class Sessions:
    """Turns submissions into orders, each sequence once; lives on the asyncio side alone.

    The first call of a new session drops the sequences of the one before, whose later calls are
    conflicts. A session without an events stream for `gone_s` has its sequences cancelled.
    """

    def __init__(
        self,
        info: EngineInfo,
        events: EventLog,
        put: Callable[[Order], None],
        gone_s: float = GONE_S,
    ) -> None:
        self._info = info
        self._events = events
        self._put = put
        self._gone_s = gone_s
        self.draining = False
        self._current: str | None = None
        self._began_after = 0
        self._replaced: deque[str] = deque(maxlen=REPLACED)
        self._known = KnownSequences()
        self._readers: set[EventReader] = set()
        self._absence: asyncio.TimerHandle | None = None

    def submit(self, submission: Submission) -> Submitted:
        """Pass operations on. ConflictingCall for another epoch or from a replaced session."""
        if submission.epoch != self._info.epoch:
            raise ConflictingCall(
                f"the epoch is {self._info.epoch}, the submission is for {submission.epoch}"
            )
        self._enter(submission.session)
        self._watch()
        refused: list[Refused] = []
        for operation in submission.operations:
            refused += self._operate(operation)
        return Submitted(epoch=self._info.epoch, refused=refused)

    def open(self, session: str, after: int) -> EventReader:
        """A reader of a session's events after a number, never those of an earlier session."""
        self._enter(session)
        reader = EventReader(self._events, self._info.epoch, max(after, self._began_after))
        self._readers.add(reader)
        self._watch()
        return reader

    def closed(self, reader: EventReader) -> None:
        """A reader's connection is gone."""
        self._readers.discard(reader)
        self._watch()

    def publish(self, step: Step) -> None:
        """Make a step known to whoever reads."""
        self._known.finish(finish.id for finish in step.finished)
        self._events.append(step)

    def close(self) -> None:
        """End every stream."""
        for reader in self._readers:
            reader.close()

    def _enter(self, session: str) -> None:
        if session == self._current:
            return
        if session in self._replaced:
            raise ConflictingCall(f"session {session} was replaced by {self._current}")
        if self._current is not None:
            log.info("session_replaced", earlier=self._current, session=session)
            self._replaced.append(self._current)
            self._put(Forget())
        self.close()
        self._readers.clear()
        self._known.clear()
        self._stop_clock()
        self.draining = False
        self._current = session
        self._began_after = self._events.newest

    def _watch(self) -> None:
        """Run the clock while nobody reads; what it cancels may still be read about."""
        if self._readers:
            self._stop_clock()
        elif self._absence is None:
            clock = asyncio.get_running_loop()
            self._absence = clock.call_later(self._gone_s, self._give_up)

    def _stop_clock(self) -> None:
        if self._absence is not None:
            self._absence.cancel()
            self._absence = None

    def _give_up(self) -> None:
        self._absence = None
        log.warning("session_gone", session=self._current)
        self._put(Stop(None, f"the events connection was gone for {self._gone_s:g} s"))

    def _operate(self, operation: Operation) -> list[Refused]:
        """Pass one operation on; whoever of it is refused."""
        match operation:
            case SubmitBatch(sequences=sequences):
                return self._start(sequences)
            case Cancel(ids=ids):
                self._put(Stop(ids))
            case Drain():
                self.draining = True
            case Resume():
                self.draining = False
                self._put(operation)
            case _:
                self._put(operation)
        return []

    def _start(self, sequences: list[Sequence]) -> list[Refused]:
        refused, fresh = [], []
        for sequence in sequences:
            if sequence.id in self._known:
                continue
            reason = DRAINING if self.draining else refusal(sequence, self._info)
            if reason is not None:
                refused.append(Refused(id=sequence.id, reason=reason))
            else:
                self._known.add(sequence.id)
                fresh.append(sequence)
        if fresh:
            self._put(Start(fresh))
        return refused
