"""What the step loop is told to do; carried out before its next step."""

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
    """Run these sequences, in this order; in lock step they are one batch."""

    sequences: list[Sequence]


@dataclass(frozen=True)
class Stop:
    """End these sequences as cancelled; None ends all."""

    ids: list[SequenceId] | None
    message: str | None = None


@dataclass(frozen=True)
class Reset:
    """Drop every sequence, pin and pause without a word: whoever asked for them is gone."""


@dataclass(frozen=True)
class Audit:
    """Count every page; `answer` gets what is wrong, or None. Called on the loop's thread."""

    answer: Callable[[str | None], None]


Command: TypeAlias = (
    Start | Stop | Revise | Preempt | Pin | Unpin | Pause | Resume | SetMode | Reset | Audit
)
