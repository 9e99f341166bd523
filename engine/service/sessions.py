"""Gateway sessions; only the current one's sequences run."""

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
    Pin,
    Refused,
    Resume,
    Sequence,
    Step,
    Submission,
    SubmitBatch,
    Submitted,
)
from engine.service.events import EventLog, EventReader
from engine.service.validation import pin_rejection_reason, rejection_reason
from engine.step.commands import Command, RefusePins, Reset, Start, Stop
from engine.step.seen_ids import SeenIds

MAX_DISCONNECTED_S: Final = 5.0
MAX_REPLACED_SESSIONS: Final = 1024
MAX_PINS: Final = 256  # of one submitted batch
DRAINING: Final = "the engine is draining: it accepts no new sequences until it is resumed"

log = structlog.get_logger()


class Sessions:
    """Turns submissions into commands, each sequence once; used only on the asyncio thread.

    The first call of a new session drops the sequences of the previous one, whose later calls are
    conflicts. The sequences of a session without an events stream for `max_disconnected_s` are
    cancelled.
    """

    def __init__(
        self,
        info: EngineInfo,
        events: EventLog,
        put: Callable[[Command], None],
        max_disconnected_s: float = MAX_DISCONNECTED_S,
    ) -> None:
        self._info = info
        self._events = events
        self._put = put
        self._max_disconnected_s = max_disconnected_s
        self.draining = False
        self._current: str | None = None
        self._first_event = 0
        self._replaced: deque[str] = deque(maxlen=MAX_REPLACED_SESSIONS)
        self._seen = SeenIds()
        self._readers: set[EventReader] = set()
        self._disconnect_timer: asyncio.TimerHandle | None = None

    def submit(self, submission: Submission) -> Submitted:
        """Apply operations. ConflictingCall for another epoch or from a replaced session."""
        if submission.epoch != self._info.epoch:
            raise ConflictingCall(
                f"the epoch is {self._info.epoch}, the submission is for {submission.epoch}"
            )
        self._enter(submission.session)
        self._update_timer()
        refused: list[Refused] = []
        for operation in submission.operations:
            refused += self._apply(operation)
        return Submitted(epoch=self._info.epoch, refused=refused)

    def open(self, session: str, after: int) -> EventReader:
        """A reader of a session's events after a number, without those of earlier sessions."""
        self._enter(session)
        reader = EventReader(self._events, self._info.epoch, max(after, self._first_event))
        self._readers.add(reader)
        self._update_timer()
        return reader

    def closed(self, reader: EventReader) -> None:
        """Remove the reader of a closed connection."""
        self._readers.discard(reader)
        self._update_timer()

    def publish(self, step: Step) -> None:
        """Record a step and pass it to all readers."""
        self._seen.finish([*(finish.id for finish in step.finished), *step.returned])
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
            self._put(Reset())
        self.close()
        self._readers.clear()
        self._seen.clear()
        self._cancel_timer()
        self.draining = False
        self._current = session
        self._first_event = self._events.newest

    def _update_timer(self) -> None:
        """Run the timer while there is no reader; a later reader still gets the cancellations."""
        if self._readers:
            self._cancel_timer()
        elif self._disconnect_timer is None:
            loop = asyncio.get_running_loop()
            self._disconnect_timer = loop.call_later(
                self._max_disconnected_s, self._cancel_sequences
            )

    def _cancel_timer(self) -> None:
        if self._disconnect_timer is not None:
            self._disconnect_timer.cancel()
            self._disconnect_timer = None

    def _cancel_sequences(self) -> None:
        self._disconnect_timer = None
        log.warning("session_gone", session=self._current)
        self._put(Stop(None, f"the events connection was gone for {self._max_disconnected_s:g} s"))

    def _apply(self, operation: Operation) -> list[Refused]:
        """Apply one operation; its refused sequences."""
        match operation:
            case SubmitBatch(sequences=sequences, pins=pins):
                return self._start(sequences, pins)
            case Pin():
                for pin in self._made([operation]):
                    self._put(pin)
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

    def _start(self, sequences: list[Sequence], pins: list[Pin]) -> list[Refused]:
        refused, accepted = [], []
        for sequence in sequences:
            if sequence.id in self._seen:
                continue
            reason = DRAINING if self.draining else rejection_reason(sequence, self._info)
            if reason is not None:
                refused.append(Refused(id=sequence.id, reason=reason))
            else:
                self._seen.add(sequence.id)
                accepted.append(sequence)
        made = self._made(pins)
        if accepted or made:
            self._put(Start(accepted, made))
        return refused

    def _made(self, pins: list[Pin]) -> tuple[Pin, ...]:
        """The pins to make; the others are reported as lost by the next event."""
        reasons = [self._pin_refusal(pin, number) for number, pin in enumerate(pins)]
        lost = [pin.name for pin, reason in zip(pins, reasons, strict=True) if reason]
        if lost:
            log.warning("pins_refused", pins=len(lost), reason=next(filter(None, reasons)))
            self._put(RefusePins(tuple(lost)))
        return tuple(pin for pin, reason in zip(pins, reasons, strict=True) if not reason)

    def _pin_refusal(self, pin: Pin, number: int) -> str | None:
        if self.draining:
            return DRAINING
        if number >= MAX_PINS:
            return f"a submission has at most {MAX_PINS} pins"
        return pin_rejection_reason(pin, self._info)
