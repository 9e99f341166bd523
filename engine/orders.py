"""What the step loop is told to do; carried out before its next step."""

from dataclasses import dataclass
from typing import TypeAlias

from engine.protocol import Revise, Sequence, SequenceId


@dataclass(frozen=True)
class Start:
    """Run these sequences, in this order."""

    sequences: list[Sequence]


@dataclass(frozen=True)
class Stop:
    """End these sequences as cancelled; None ends all."""

    ids: list[SequenceId] | None
    message: str | None = None


@dataclass(frozen=True)
class Forget:
    """Drop every sequence without a word: whoever asked for them is gone."""


Order: TypeAlias = Start | Stop | Revise | Forget
