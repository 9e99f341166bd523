"""The gateway's view of its engine: description, newest step, and the commands in force."""

import asyncio
from collections.abc import Mapping
from collections.abc import Sequence as Many
from typing import Final

import msgspec
import structlog

from engine.protocol import (
    EngineInfo,
    KvPlacement,
    KvState,
    Mode,
    Pin,
    Sequence,
    SequenceId,
    Starting,
    Step,
)
from gateway.engines.interface import EngineClient
from gateway.scheduling.policy import Policy

OUTAGE_S: Final = 30.0
MAX_STARTS: Final = 3  # that show signs of life, and none serves

log = structlog.get_logger()


class EngineSession:
    """Sends commands to the engine and repeats those in force to the next engine after a loss.

    `number` is its place among the gateway's engines. `info` describes the newest engine with its
    present KV memory; `step` is its newest step, `step_s` the time of the newest one that computed
    something. `lost_at_s` is None while the engine answers, and
    `phase` what an engine does that starts meanwhile. `refused` is why an engine that answers is
    not used: it serves another model than the others. While `paused` or `draining` nothing new is
    submitted.

    Requests wait for a lost engine until it was silent for `outage_s`. An engine that starts gives
    signs of life; those of a fourth start, after three of which none came to serve, do not count.
    """

    def __init__(
        self,
        engine: EngineClient,
        mode: Mode,
        now_s: float,
        outage_s: float = OUTAGE_S,
        number: int = 0,
    ) -> None:
        self.number = number
        self._engine = engine
        self._ready = asyncio.Event()
        self.info: EngineInfo | None = None
        self.step: Step | None = None
        self.step_s: float | None = None
        self.mode = mode
        self.paused = False
        self.draining = False
        self.lost_at_s: float | None = now_s
        self.phase = self.refused = ""
        self._outage_s = outage_s
        self._heard_at_s = now_s
        self._starts: set[str] = set()  # epochs

    @property
    def connected(self) -> bool:
        """Whether an engine is connected."""
        return self.lost_at_s is None

    def patience_s(self, now_s: float) -> float:
        """How long requests wait on for a lost engine if it stays silent; 0: no longer."""
        return max(self._heard_at_s + self._outage_s - now_s, 0.0)

    def given_up(self, now_s: float) -> bool:
        """Whether the engine was away and silent for so long that no request waits for it."""
        return not self.connected and not self.patience_s(now_s)

    @property
    def held(self) -> bool:
        """Whether an operator paused or drains the engine."""
        return self.paused or self.draining

    @property
    def accepting(self) -> bool:
        """Whether requests can be submitted now."""
        return self.connected and not self.held

    @property
    def busy_s(self) -> float:
        """Seconds since the start of the engine's current step."""
        return self._engine.busy_s

    @property
    def kv(self) -> KvState | None:
        """KV memory as of the newest step; None before the first engine."""
        if self.step is not None:
            return self.step.kv
        return None if self.info is None else self.info.kv

    async def ready(self) -> EngineInfo:
        """Wait for the engine and return its description."""
        await self._ready.wait()
        return self.served

    @property
    def served(self) -> EngineInfo:
        """The newest engine's description; AssertionError before the first engine."""
        assert self.info is not None, "no engine has connected yet"
        return self.info

    def context_tokens(self, memory: KvPlacement) -> int:
        """The most tokens of a sequence of the newest engine, by where its memory is."""
        served = self.served
        return served.context_tokens if memory == "device" else served.offload_context_tokens

    def opened(self, info: EngineInfo) -> None:
        """A new engine is connected: repeat the commands in force to it."""
        self.info, self.step, self.step_s = info, None, None
        self.lost_at_s, self.phase = None, ""
        self.refused = ""
        self._starts.clear()
        self._ready.set()
        if self.mode != "continuous":
            self._engine.set_mode(self.mode)
        if self.paused:
            self._engine.pause()

    def stepped(self, step: Step) -> None:
        """The engine completed a step, or reported ends without one."""
        self.step = step
        if step.steps and step.took_s:
            self.step_s = step.took_s / step.steps

    def refuse(self, reason: str) -> None:
        """An engine answers that is not to be used."""
        self.refused = reason
        log.error("engine_refused", engine=self.number, reason=reason)

    def closed(self, now_s: float) -> None:
        """The engine is lost."""
        self.lost_at_s = self._heard_at_s = now_s
        self._ready.clear()

    def starting(self, starting: Starting, now_s: float) -> None:
        """An engine that starts gave a sign of life."""
        if starting.phase != self.phase:
            log.info("engine_starting", engine=self.number, phase=starting.phase)
        self.phase = starting.phase
        self._starts.add(starting.epoch)
        if len(self._starts) <= MAX_STARTS:
            self._heard_at_s = now_s

    def resized(self, kv: KvState) -> None:
        """The size of the engine's KV memory changed."""
        context_tokens = min(self.served.context_tokens, kv.pages * kv.page_tokens)
        self.info = msgspec.structs.replace(self.served, kv=kv, context_tokens=context_tokens)

    def limited(self, max_running: int) -> None:
        """The engine takes another number of sequences."""
        self.info = msgspec.structs.replace(self.served, max_running=max_running)

    def pause(self) -> None:
        """Stop the engine's computation until resumed; it keeps its KV memory.

        A replacement engine is paused too.
        """
        self.paused = True
        log.info("engine_paused", engine=self.number)
        self._engine.pause()

    def drain(self) -> None:
        """Submit nothing new until resumed; running requests finish, on the next engine too.

        The gateway drains, not the engine: a draining engine would refuse the sequences that a lost
        engine had been running.
        """
        self.draining = True
        log.info("engine_draining", engine=self.number)

    def resume(self) -> None:
        """End a pause or a drain."""
        self.paused = self.draining = False
        log.info("engine_resumed", engine=self.number)
        self._engine.resume()

    def set_mode(self, mode: Mode) -> None:
        """Batch per step (`continuous`) or statically (`lockstep`), on later engines too."""
        if mode != self.mode:
            self.mode = mode
            self._engine.set_mode(mode)

    def submit(self, batch: str, sequences: Many[Sequence], pins: Many[Pin] = ()) -> None:
        """Submit a batch; `pins` are made before it starts."""
        self._engine.submit(batch, sequences, pins)

    def unpin(self, names: Many[str]) -> None:
        """Release pinned prefixes."""
        self._engine.unpin(names)

    def cancel(self, ids: Many[SequenceId]) -> None:
        """Stop these sequences and free their pages."""
        self._engine.cancel(ids)

    def revise(
        self, remaining: Mapping[SequenceId, int], preempt_first: Mapping[SequenceId, int]
    ) -> None:
        """Update expected remaining tokens and `preempt_first` of the sequences named."""
        self._engine.revise(remaining, preempt_first)

    def preempt(self, ids: Many[SequenceId]) -> None:
        """Preempt these sequences before the engine's next step."""
        self._engine.preempt(ids)


def mode_of(policy: Policy) -> Mode:
    """The engine's batching mode under this policy."""
    return "lockstep" if policy.lockstep else "continuous"
