"""What the gateway needs of an engine, whichever runs the model."""

from collections.abc import Sequence as Many
from typing import Protocol

from engine.protocol import EngineInfo, Refused, Sequence, SequenceId, Step


class EngineListener(Protocol):
    """Who is told what an engine does. Calls must not block."""

    def engine_ready(self, info: EngineInfo) -> None:
        """An engine that knows no sequence is there: the first, or another after a loss."""

    def engine_stepped(self, step: Step) -> None:
        """New tokens, finishes and preemptions of one step."""

    def engine_refused(self, refused: Many[Refused]) -> None:
        """These sequences will never run."""

    def engine_lost(self) -> None:
        """The engine does not answer; `engine_ready` follows when it does again."""


class Engine(Protocol):
    """One engine serving one model."""

    def submit(self, batch: str, sequences: Many[Sequence]) -> None:
        """Hand over a batch. What becomes of it is told to the listener."""

    def cancel(self, ids: Many[SequenceId]) -> None:
        """Stop these sequences and free their pages."""
