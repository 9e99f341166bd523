"""Commands to the step loop, executed before its next step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from engine.protocol import (
    Pause,
    Pin,
    Preempt,
    Resume,
    Revise,
    Sequence,
    SequenceId,
    SetMode,
    Unpin,
)


@dataclass(frozen=True)
class Start:
    """Make these pins, then run these sequences, in this order; in lock step they are one batch."""

    sequences: list[Sequence]
    pins: tuple[Pin, ...] = ()


@dataclass(frozen=True)
class RefusePins:
    """Report these pins as lost: they are invalid."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Stop:
    """End these sequences as cancelled; `ids` = None ends all, and all pins."""

    ids: list[SequenceId] | None
    message: str | None = None


@dataclass(frozen=True)
class Reset:
    """Drop all sequences, pins and a pause without events: their session is gone."""


@dataclass(frozen=True)
class GrammarCompiled:
    """A grammar that sequences wait for is compiled, or refused."""


@dataclass(frozen=True)
class Audit:
    """Check all pages; calls `answer`, on the loop's thread, with the inconsistency or None."""

    answer: Callable[[str | None], None]


Command: TypeAlias = (
    Start
    | Stop
    | RefusePins
    | Revise
    | Preempt
    | Pin
    | Unpin
    | Pause
    | Resume
    | SetMode
    | Reset
    | GrammarCompiled
    | Audit
)
