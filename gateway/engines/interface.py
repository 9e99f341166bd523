"""What the gateway needs of an engine, whichever runs the model."""

from collections.abc import Mapping
from collections.abc import Sequence as Many
from typing import Protocol

from engine.protocol import EngineInfo, Mode, Refused, Sequence, SequenceId, Step


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
    """One engine serving one model. What is told while none is there is forgotten.

    `engine_ready` announces one that batches by iteration, is neither paused nor draining, and
    has nothing pinned, whatever the one before was told.
    """

    async def start(self, listener: EngineListener) -> None:
        """Begin to connect; the listener hears of the engine once it is there."""

    async def close(self) -> None:
        """Drop the connection; the engine cancels what still runs."""

    @property
    def busy_s(self) -> float:
        """For how long a step has been under way; 0 where steps come as they should."""

    def submit(self, batch: str, sequences: Many[Sequence]) -> None:
        """Hand over a batch. What becomes of it is told to the listener."""

    def cancel(self, ids: Many[SequenceId]) -> None:
        """Stop these sequences and free their pages."""

    def revise(self, remaining: Mapping[SequenceId, int]) -> None:
        """Advise how many more tokens each sequence is now expected to generate."""

    def pause(self) -> None:
        """Compute nothing until `resume`; what runs keeps its memory."""

    def drain(self) -> None:
        """Refuse new sequences until `resume`; what is there runs to its end."""

    def resume(self) -> None:
        """End a pause or a drain."""

    def set_mode(self, mode: Mode) -> None:
        """Batch by iteration, or in lock step; what runs starts anew in the other mode."""

    def pin(self, name: str, tokens: Many[int], salt: str) -> None:
        """Keep the KV memory of a prefix of this salt, once computed, under a name of ours."""

    def unpin(self, names: Many[str]) -> None:
        """Let pinned prefixes go."""
