"""The engine as this gateway knows it: its description, its newest step, its orders."""

import asyncio
from collections.abc import Mapping
from collections.abc import Sequence as Many

import msgspec
import structlog

from engine.protocol import EngineInfo, KvState, Mode, Sequence, SequenceId, Step
from gateway.engines.interface import Engine

log = structlog.get_logger()


class EngineSession:
    """Orders to one engine, kept for the next one where the engine is lost.

    `info` describes the newest engine, its memory as it is now; `step` is its newest step.
    `lost_at_s` is None while it answers. While `paused` or `draining` it is given nothing new.
    """

    def __init__(self, engine: Engine, mode: Mode, now_s: float) -> None:
        self._engine = engine
        self._ready = asyncio.Event()
        self.info: EngineInfo | None = None
        self.step: Step | None = None
        self.mode = mode
        self.paused = False
        self.draining = False
        self.lost_at_s: float | None = now_s

    @property
    def connected(self) -> bool:
        """Whether an engine is there."""
        return self.lost_at_s is None

    @property
    def held(self) -> bool:
        """Whether an operator keeps requests from the engine."""
        return self.paused or self.draining

    @property
    def accepting(self) -> bool:
        """Whether requests can be handed over now."""
        return self.connected and not self.held

    @property
    def busy_s(self) -> float:
        """For how long a step of the engine has been under way."""
        return self._engine.busy_s

    @property
    def kv(self) -> KvState | None:
        """KV memory as of the newest step; None before the first engine."""
        if self.step is not None:
            return self.step.kv
        return None if self.info is None else self.info.kv

    async def ready(self) -> EngineInfo:
        """The engine's description, once it is there."""
        await self._ready.wait()
        return self.served

    @property
    def served(self) -> EngineInfo:
        """The description of an engine that has been there."""
        assert self.info is not None, "no engine has been there yet"
        return self.info

    def opened(self, info: EngineInfo) -> None:
        """A fresh engine is there: it gets the orders that hold."""
        self.info, self.step, self.lost_at_s = info, None, None
        self._ready.set()
        if self.mode != "continuous":
            self._engine.set_mode(self.mode)
        if self.paused:
            self._engine.pause()

    def closed(self, now_s: float) -> None:
        """The engine is lost."""
        self.lost_at_s = now_s
        self._ready.clear()

    def resized(self, kv: KvState) -> None:
        """The engine's memory has another size."""
        context_tokens = min(self.served.context_tokens, kv.pages * kv.page_tokens)
        self.info = msgspec.structs.replace(self.served, kv=kv, context_tokens=context_tokens)

    def pause(self) -> None:
        """Let the engine compute nothing until resumed; memory is kept.

        Holds for every engine: one that takes its place is paused too.
        """
        self.paused = True
        log.info("engine_paused")
        self._engine.pause()

    def drain(self) -> None:
        """Start nothing until resumed; what runs goes on to its end, in the next engine too.

        The engine is not ordered to: it would refuse what another one was running when it died.
        """
        self.draining = True
        log.info("engine_draining")

    def resume(self) -> None:
        """End a pause or a drain."""
        self.paused = self.draining = False
        log.info("engine_resumed")
        self._engine.resume()

    def set_mode(self, mode: Mode) -> None:
        """Batch by iteration, or in lock step, in whatever engine is there."""
        if mode != self.mode:
            self.mode = mode
            self._engine.set_mode(mode)

    def submit(self, batch: str, sequences: Many[Sequence]) -> None:
        """Hand over a batch."""
        self._engine.submit(batch, sequences)

    def cancel(self, ids: Many[SequenceId]) -> None:
        """Stop these sequences and free their pages."""
        self._engine.cancel(ids)

    def revise(self, remaining: Mapping[SequenceId, int]) -> None:
        """Advise how many more tokens each sequence is now expected to generate."""
        self._engine.revise(remaining)
