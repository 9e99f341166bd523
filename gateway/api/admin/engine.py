"""`/admin/engine`: the engines' state, and commands to them."""

from typing import Annotated, Self

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from msgspec import Struct

from engine.protocol import EngineInfo, KvState, Mode, Step, StepTimes
from gateway.api.admin.actor import Actor, area
from gateway.api.openapi import errors
from gateway.generation.engines.session import EngineSession
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
    """The newest step: the engine's sequences, and the times of the step's phases.

    That of a server that is not ours reports `steps` steps, which took `took_s` together.
    """

    number: int
    running: int
    suspended: int
    waiting: int
    computed: int
    steps: int
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
            steps=step.steps,
            took_s=step.took_s,
            times=step.times,
        )


class OneEngineAnswer(Struct, frozen=True):
    """One of the engines, by its `number`; as `EngineAnswer`, of this engine alone.

    `refused` says why an engine that answers gets nothing; null if it is not refused.
    """

    number: int
    connected: bool
    refused: str | None
    paused: bool
    draining: bool
    busy_s: float
    running: int
    info: ServedBy | None
    kv: KvAnswer | None
    step: StepAnswer | None

    @classmethod
    def of(cls, engine: EngineSession, running: int) -> Self:
        """An engine that has this number of requests, as clients see it."""
        return cls(
            number=engine.number,
            connected=engine.connected,
            refused=engine.refused or None,
            paused=engine.paused,
            draining=engine.draining,
            busy_s=engine.busy_s,
            running=running,
            info=ServedBy.of(engine.info) if engine.info else None,
            kv=KvAnswer.of(engine.kv) if engine.kv else None,
            step=StepAnswer.of(engine.step) if engine.step else None,
        )


class EngineAnswer(Struct, frozen=True):
    """The engine as of its newest step; `info` and `kv` are null before the first engine.

    `step` is null before an engine's first step. While `paused` or `draining`, requests wait in the
    gateway. Several engines are described as one: `connected` is whether any is, `paused` and
    `draining` whether all are, `info` what all can do, `kv` the memory of all, `step` the newest of
    the one that runs most. `engines` has each.
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
    engines: list[OneEngineAnswer]

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
            engines=[OneEngineAnswer.of(each, len(table.on(each.number))) for each in engine],
        )


OfEngine = Annotated[
    int | None,
    QueryParameter(ge=0, description="number of the engine; absent: all of them"),
]


class EngineController(Controller):
    """Shows, pauses, drains and resumes the engines of this gateway."""

    path = "/engine"
    opt = area(Scope.ENGINE)

    @get(summary="Show the engines")
    async def show_engine(self, service: NamedDependency[GenerationService]) -> EngineAnswer:
        """The served model, KV memory, numbers of running and waiting requests, and newest step."""
        return EngineAnswer.of(service.scheduler)

    @post("/pause", status_code=200, summary="Pause an engine, or all", responses=errors(404, 409))
    async def pause_engine(
        self,
        service: NamedDependency[GenerationService],
        commands: NamedDependency[OperatorCommands],
        actor: Actor,
        engine: OfEngine = None,
    ) -> EngineAnswer:
        """Stop computation until resumed; running requests keep their KV memory, new ones wait.

        A replacement engine is paused too. `/health/ready` answers 503 while no engine takes
        requests. 409 if an engine is an OpenAI-compatible server, which cannot be paused. 404 for a
        number that no engine has.
        """
        commands.pause_engine(engine, by=actor)
        return EngineAnswer.of(service.scheduler)

    @post("/drain", status_code=200, summary="Drain an engine, or all", responses=errors(404))
    async def drain_engine(
        self,
        service: NamedDependency[GenerationService],
        commands: NamedDependency[OperatorCommands],
        actor: Actor,
        engine: OfEngine = None,
    ) -> EngineAnswer:
        """Finish running requests and hold new ones in the queue until resumed; no request fails.

        One of several finishes what it has, and what waits starts on the others. `/health/ready`
        answers 503 while no engine takes requests. 404 for a number that no engine has.
        """
        commands.drain_engine(engine, by=actor)
        return EngineAnswer.of(service.scheduler)

    @post("/resume", status_code=200, summary="Resume an engine, or all", responses=errors(404))
    async def resume_engine(
        self,
        service: NamedDependency[GenerationService],
        commands: NamedDependency[OperatorCommands],
        actor: Actor,
        engine: OfEngine = None,
    ) -> EngineAnswer:
        """End a pause or a drain. 404 for a number that no engine has."""
        commands.resume_engine(engine, by=actor)
        return EngineAnswer.of(service.scheduler)
