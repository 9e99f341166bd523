"""The admin API on a real database."""

import asyncio
import os
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import httpx
import pytest
import uvicorn
from litestar import Litestar
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig

from engine.checkpoints.catalogue import DEMO_FOLDER
from gateway.api.admin.routes import AdminServices, admin_router
from gateway.api.body import BodyLimits, bounded_request
from gateway.api.errors import exception_handlers
from gateway.database.errors import Sessions
from gateway.database.supervision import DatabaseWatch
from gateway.deletion.deletions import Deletions
from gateway.engines.colocated import ColocatedEngine
from gateway.files.bounds import FileBounds
from gateway.files.store import FileStore
from gateway.generation.operation.commands import OperatorCommands
from gateway.generation.request import GenerationRequest, Message
from gateway.generation.request_state import RequestState
from gateway.generation.scheduler import Scheduler
from gateway.generation.service import GenerationService
from gateway.generation.text.tokenizer import ChatTokenizer
from gateway.generation.text.workers import TextWorkers
from gateway.history.audit import AuditTrail
from gateway.history.listing import RequestList
from gateway.history.requests import RequestHistory
from gateway.history.writer import HistoryWriter
from gateway.jobs.batches.listing import AllBatches
from gateway.parts import Parts
from gateway.prediction.lifecycle.comparison import VersionComparer
from gateway.prediction.lifecycle.drift_series import DriftSeries
from gateway.prediction.lifecycle.erasure import SampleErasure
from gateway.prediction.lifecycle.log_import import LogImport, TokenCounters
from gateway.prediction.lifecycle.registry import Registry
from gateway.prediction.lifecycle.runs import TrainingRuns
from gateway.prediction.lifecycle.schedule import Schedules
from gateway.prediction.messages import Prediction
from gateway.prediction.serving.predictor import LengthPredictor
from gateway.scheduling.policy import Options
from gateway.tenancy.admin_key import AdminKey
from gateway.tenancy.apps import Apps
from gateway.tenancy.caller import Caller
from gateway.tenancy.keys import ApiKeys
from gateway.tenancy.scopes import ScopedKeys
from gateway.tenancy.tenants import Tenants
from gateway.usage.limits.limits import Limits
from gateway.usage.prices import Prices
from gateway.usage.report import UsageReport
from models.base import new_id
from tests.conftest import Builder

ADMIN_KEY = "the-admin-key"
Enqueue: TypeAlias = Callable[..., RequestState]
Run: TypeAlias = Callable[..., Awaitable[tuple[int, str, str]]]
ROOT = Path(__file__).parents[3]
WORDS = TokenCounters(
    text=lambda text: len(text.split()), prompt=lambda left, right: len(f"{left} {right}".split())
)


@pytest.fixture
async def parts(
    service: GenerationService,
    predictor: LengthPredictor,
    history_writer: HistoryWriter,
    postgres_url: str,
) -> AsyncIterator[Parts]:
    """What the gateway depends on: neither an engine nor a predictor process runs."""
    watch = DatabaseWatch(postgres_url)
    yield Parts(service.scheduler.engine, predictor, watch, history_writer)
    await watch.close()


@pytest.fixture
async def runs(sessions: Sessions, postgres_url: str) -> AsyncIterator[TrainingRuns]:
    made = TrainingRuns(sessions, model="m", model_hash="h", database_url=postgres_url)
    yield made
    await made.close()


@pytest.fixture
def predictor(sessions: Sessions) -> LengthPredictor:
    """A predictor without its process: it predicts from history."""
    return LengthPredictor(model="m", model_hash="h", budget_s=1.0, sessions=sessions)


@pytest.fixture
def model_files() -> Path:
    """The folder of the served model's files."""
    return DEMO_FOLDER


@pytest.fixture
async def history_writer(
    sessions: Sessions, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[HistoryWriter]:
    """The writer of history, which writes when it is flushed."""
    made = HistoryWriter(sessions, tmp_path_factory.mktemp("spool"))
    yield made
    await made.close()


@pytest.fixture
def engines() -> list[ColocatedEngine]:
    """The clients of the service's engines."""
    return [ColocatedEngine("nothing listens here")]


@pytest.fixture
async def service(
    engines: list[ColocatedEngine],
    history_writer: HistoryWriter,
    predictor: LengthPredictor,
    model_files: Path,
) -> AsyncIterator[GenerationService]:
    """The generation service without an engine: nothing leaves its queue."""
    scheduler = Scheduler(
        "m",
        engines,
        history_writer,
        predictor,
        policy="lmaas",
        options=Options(),
        tau_floor=0.2,
    )
    workers = TextWorkers()
    yield GenerationService("m", ChatTokenizer(model_files), predictor, scheduler, workers)
    workers.close()


@pytest.fixture
async def enqueue(service: GenerationService) -> Enqueue:
    """Adds a request to the queue, with its arrival at second 0 of the clock."""
    tokenizer = ChatTokenizer(DEMO_FOLDER)

    def build(length: float = 10.0, tenant: int = 1, **fields: Any) -> RequestState:
        caller = Caller(
            tenant_id=UUID(int=tenant),
            tenant=f"tenant {tenant}",
            app_id=UUID(int=2),
            app="app",
            api_key_id=UUID(int=3),
            instruction=None,
        )
        state = RequestState(
            request_id=new_id(),
            request=GenerationRequest(
                caller=caller, messages=(Message("user", "hello"),), **fields
            ),
            prompt=[1, 2, 3],
            user_input_tokens=1,
            max_tokens=100,
            prediction=Prediction(
                quantiles=(length,) * 6,
                mean=length,
                source="model",
                predictor=None,
                feature_version=1,
                features=b"",
                instruction_hash=b"",
            ),
            decoder=tokenizer.decoder(),
            speller=tokenizer.speller,
            arrived_at=datetime.now(UTC),
            arrived_s=0.0,
        )
        service.scheduler.enqueue(state)
        return state

    return build


@pytest.fixture
def application(
    *,
    sessions: Sessions,
    build: Builder,
    runs: TrainingRuns,
    service: GenerationService,
    history_writer: HistoryWriter,
    postgres_url: str,
) -> Litestar:
    services = AdminServices(
        tenants=Tenants(sessions),
        deletions=Deletions(sessions),
        apps=Apps(sessions, service.check_instruction),
        keys=ApiKeys(sessions, build.authenticator),
        scoped_keys=ScopedKeys(sessions),
        registry=Registry(sessions),
        runs=runs,
        schedules=Schedules(sessions),
        comparison=VersionComparer(sessions, database_url=postgres_url),
        series=DriftSeries(sessions, "m"),
        erasure=SampleErasure(sessions),
        logs=LogImport(sessions, model="m", counting=WORDS),
        trail=AuditTrail(sessions),
        requests=RequestHistory(sessions),
        batches=AllBatches(sessions),
        files=FileStore(sessions, FileBounds()),
        prices=Prices(sessions),
        limits=Limits(sessions),
        usage=UsageReport(sessions),
        commands=OperatorCommands(service.scheduler, history_writer),
        finished=RequestList(sessions),
    )
    return Litestar(
        [admin_router(AdminKey(ADMIN_KEY), services)],
        dependencies={"service": Provide(lambda: service, sync_to_thread=False)},
        request_class=bounded_request(BodyLimits, service.workers),
        exception_handlers=exception_handlers,
        openapi_config=OpenAPIConfig("test", "1", use_handler_docstrings=True),
    )


@pytest.fixture
async def client(application: Litestar) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        client.headers["authorization"] = f"Bearer {ADMIN_KEY}"
        yield client


@pytest.fixture
async def url(application: Litestar) -> AsyncIterator[str]:
    """The admin API, served on a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        config = uvicorn.Config(application, log_config=None, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await serving


@pytest.fixture
def lmaas(tmp_path: Path) -> Run:
    """Runs the command line; returns exit code, stdout and stderr."""

    async def run(*arguments: object, **environment: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from gateway.cli.main import main; main()"),
            *map(str, arguments),
            stdout=PIPE,
            stderr=PIPE,
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        )
        output, errors = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode(), errors.decode()

    return run
