"""`/admin/engine`: the engine's state, and commands to it."""

from typing import Self

from litestar import Controller, get, post
from litestar.di import NamedDependency
from msgspec import Struct

from engine.protocol import EngineInfo, KvState, Mode, Step, StepTimes
from gateway.api.admin.actor import Actor, area
from gateway.generation.operation.commands import OperatorCommands
from gateway.generation.scheduler import Scheduler
from gateway.generation.service import GenerationService
from gateway.tenancy.scopes import Scope


class ServedBy(Struct, frozen=True):
    """The served model, and the device and number format it runs in.

    Of an OpenAI-compatible server, `device` is its address and `dtype` its name; `probed` is what
    it showed when it was connected, and `refusals` says why it cannot do what is named.
    """

    epoch: str
    model: str
    context_tokens: int
    vocabulary: int
    device: str
    dtype: str
    dtype_reason: str
    probed: dict[str, str | int | bool]
    refusals: dict[str, str]

    @classmethod
    def of(cls, info: EngineInfo) -> Self:
        """The constant part of an engine's description."""
        return cls(
            epoch=info.epoch,
            model=info.model,
            context_tokens=info.context_tokens,
            vocabulary=info.vocabulary,
            device=info.device,
            dtype=info.dtype,
            dtype_reason=info.dtype_reason,
            probed=info.probed,
            refusals=info.refusals,
        )


class KvAnswer(Struct, frozen=True):
    """KV memory in pages; `free` includes `cached`."""

    pages: int
    free: int
    page_tokens: int
    cached: int
    shared: int
    swapped: int

    @classmethod
    def of(cls, kv: KvState) -> Self:
        """KV memory as clients see it, zero counts included."""
        return cls(kv.pages, kv.free, kv.page_tokens, kv.cached, kv.shared, kv.swapped)


class StepAnswer(Struct, frozen=True):
    """The newest step: the engine's sequences, and the times of the step's phases."""

    number: int
    running: int
    suspended: int
    waiting: int
    computed: int
    took_s: float
    times: StepTimes | None

    @classmethod
    def of(cls, step: Step) -> Self:
        """A step as clients see it, without tokens."""
        return cls(
            number=step.number,
            running=step.running,
            suspended=step.suspended,
            waiting=step.waiting,
            computed=step.computed,
            took_s=step.took_s,
            times=step.times,
        )


class EngineAnswer(Struct, frozen=True):
    """The engine as of its newest step; `info` and `kv` are null before the first engine.

    `step` is null before an engine's first step. While `paused` or `draining`, requests wait in the
    gateway.
    """

    connected: bool
    paused: bool
    draining: bool
    mode: Mode
    busy_s: float
    waiting: int
    running: int
    info: ServedBy | None
    kv: KvAnswer | None
    step: StepAnswer | None

    @classmethod
    def of(cls, scheduler: Scheduler) -> Self:
        """The engine as clients see it."""
        engine, table = scheduler.engine, scheduler.table
        return cls(
            connected=engine.connected,
            paused=engine.paused,
            draining=engine.draining,
            mode=engine.mode,
            busy_s=engine.busy_s,
            waiting=len(table.waiting),
            running=len(table.running),
            info=ServedBy.of(engine.info) if engine.info else None,
            kv=KvAnswer.of(engine.kv) if engine.kv else None,
            step=StepAnswer.of(engine.step) if engine.step else None,
        )


class EngineController(Controller):
    """Shows, pauses, drains and resumes the engine of this gateway."""

    path = "/engine"
    opt = area(Scope.ENGINE)

    @get(summary="Show the engine")
    async def show_engine(self, service: NamedDependency[GenerationService]) -> EngineAnswer:
        """The served model, KV memory, numbers of running and waiting requests, and newest step."""
        return EngineAnswer.of(service.scheduler)

    @post("/pause", status_code=200, summary="Pause the engine")
    async def pause_engine(
        self,
        service: NamedDependency[GenerationService],
        commands: NamedDependency[OperatorCommands],
        actor: Actor,
    ) -> EngineAnswer:
        """Stop computation until resumed; running requests keep their KV memory, new ones wait.

        A replacement engine is paused too. `/health/ready` answers 503 meanwhile. 409 if the engine
        is an OpenAI-compatible server, which cannot be paused.
        """
        commands.pause_engine(by=actor)
        return EngineAnswer.of(service.scheduler)

    @post("/drain", status_code=200, summary="Drain the engine")
    async def drain_engine(
        self,
        service: NamedDependency[GenerationService],
        commands: NamedDependency[OperatorCommands],
        actor: Actor,
    ) -> EngineAnswer:
        """Finish running requests and hold new ones in the queue until resumed; no request fails.

        `/health/ready` answers 503 meanwhile.
        """
        commands.drain_engine(by=actor)
        return EngineAnswer.of(service.scheduler)

    @post("/resume", status_code=200, summary="Resume the engine")
    async def resume_engine(
        self,
        service: NamedDependency[GenerationService],
        commands: NamedDependency[OperatorCommands],
        actor: Actor,
    ) -> EngineAnswer:
        """End a pause or a drain."""
        commands.resume_engine(by=actor)
        return EngineAnswer.of(service.scheduler)
