"""The interface between the gateway and an engine client."""

from collections.abc import Mapping
from collections.abc import Sequence as Many
from typing import Protocol

from engine.protocol import (
    EngineInfo,
    Mode,
    Pin,
    Refused,
    Sequence,
    SequenceId,
    Starting,
    Step,
)


class EngineListener(Protocol):
    """Receives an engine's events. Calls must not block."""

    def engine_ready(self, info: EngineInfo) -> None:
        """An engine without sequences is connected: the first, or the next one after a loss."""

    def engine_stepped(self, step: Step) -> None:
        """A step ended: its new tokens, finished sequences and preemptions."""

    def engine_refused(self, refused: Many[Refused]) -> None:
        """The engine will never run these sequences."""

    def engine_lost(self) -> None:
        """The engine does not answer; `engine_ready` follows when an engine answers again."""

    def engine_starting(self, starting: Starting) -> None:
        """A sign of life, some times a second, of an engine that loads its model."""


class EngineClient(Protocol):
    """The client of one engine serving one model. Calls while none is connected are dropped.

    At `engine_ready` the engine batches per step (`continuous`), is neither paused nor draining,
    and has no pinned prefixes, whatever was set on the previous engine.
    """

    async def start(self, listener: EngineListener) -> None:
        """Start to connect; the listener is notified once the engine is connected."""

    async def close(self) -> None:
        """Close the connection; the engine cancels running sequences."""

    @property
    def busy_s(self) -> float:
        """Seconds since the start of the current step; 0 while steps end in time."""

    def submit(self, batch: str, sequences: Many[Sequence], pins: Many[Pin] = ()) -> None:
        """Submit a batch; the listener receives its events. `pins` are made before it starts."""

    def cancel(self, ids: Many[SequenceId]) -> None:
        """Stop these sequences and free their KV pages."""

    def revise(
        self, remaining: Mapping[SequenceId, int], preempt_first: Mapping[SequenceId, int]
    ) -> None:
        """Update expected remaining tokens and `preempt_first` of the sequences named."""

    def preempt(self, ids: Many[SequenceId]) -> None:
        """Preempt these sequences before the engine's next step; it reports that as usual."""

    def pause(self) -> None:
        """Stop computation until `resume`; running sequences keep their KV memory."""

    def drain(self) -> None:
        """Refuse new sequences until `resume`; those in the engine finish."""

    def resume(self) -> None:
        """End a pause or a drain."""

    def set_mode(self, mode: Mode) -> None:
        """Batch per step (`continuous`) or statically (`lockstep`: a batch leaves as a whole).

        Running sequences restart in the new mode.
        """

    def pin(self, name: str, tokens: Many[int], salt: str) -> None:
        """Keep the KV pages of this salt's prefix cached, once computed, under `name`."""

    def unpin(self, names: Many[str]) -> None:
        """Release pinned prefixes."""
