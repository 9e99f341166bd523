"""A gateway's service in this process, with its predictor process and an engine of its own."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil
import uvloop
from msgspec import Struct

from benchmarks.p2.version import MODEL_HASH
from gateway.database.connection import Database
from gateway.database.embedded import EmbeddedPostgres
from gateway.database.migration import migrate
from gateway.engines.colocated import ColocatedEngine
from gateway.engines.start import engine_environment
from gateway.engines.supervisor import EngineSupervisor, socket_path
from gateway.generation.queue.load import QueueBounds
from gateway.generation.scheduler import Scheduler
from gateway.generation.service import GenerationService
from gateway.generation.text.tokenizer import ChatTokenizer
from gateway.generation.text.workers import TextWorkers
from gateway.history.writer import HistoryWriter
from gateway.prediction.serving.predictor import LengthPredictor
from gateway.scheduling.policy import Options
from gateway.settings import Settings
from models.base import new_id

MODEL: Final = "P2"
MAX_RUNNING: Final = 16  # so that bursts wait
UNBOUND: Final = QueueBounds(tokens=2**40, tenant_tokens=2**40, requests=2**20,
                             tenant_requests=2**20)  # fmt: skip
UNUSED_BUDGET_S: Final = 1.0


class Serving(Struct, frozen=True):
    """The service, the event loop that it runs on, and its child processes."""

    runner: asyncio.Runner
    service: GenerationService
    predictor_pid: int
    engine_pid: int


@contextmanager
def serving(folder: Path, artefact: bytes) -> Iterator[Serving]:
    """A service of the model in this folder, with this version of a predictor.

    It always trusts predictions: the version was trained on other answers, and only the time at
    which it predicts is measured.
    """
    with (
        tempfile.TemporaryDirectory(prefix="lmaas-p2-") as data,
        EmbeddedPostgres(Path(data)) as postgres,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        migrate(postgres.url)
        database = runner.run(Database.open(postgres.url))
        predictor = LengthPredictor(
            model=MODEL, model_hash=MODEL_HASH, budget_s=UNUSED_BUDGET_S, sessions=database.sessions
        )
        socket = socket_path(Path(data))
        settings = Settings(data_dir=data, engine_threads=1, max_running=MAX_RUNNING)
        supervisor = EngineSupervisor(
            engine_environment(settings, str(folder), socket), Path(data) / "engine.log"
        )
        history = HistoryWriter(database.sessions, Path(data) / "spool")
        engine = ColocatedEngine(str(socket))
        workers = TextWorkers()

        async def start() -> GenerationService:
            await supervisor.start()
            await predictor.start()
            await predictor.ready()
            await predictor.activate(new_id(), artefact)
            scheduler = Scheduler(
                MODEL,
                [engine],
                history,
                predictor,
                policy="lmaas",
                options=Options(),
                tau_floor=-1.0,
                bounds=UNBOUND,
            )
            service = GenerationService(MODEL, ChatTokenizer(folder), predictor, scheduler, workers)
            await scheduler.start()
            await scheduler.engine.ready()
            return service

        async def stop() -> None:
            await engine.close()
            await supervisor.stop()
            await predictor.close()
            await database.close()
            workers.close()

        try:
            service = runner.run(start())
            yield Serving(
                runner,
                service,
                _child("gateway.prediction.serving.process"),
                _child("engine"),
            )
        finally:
            runner.run(stop())


def _child(module: str) -> int:
    """The id of the child process that runs this module."""
    (pid,) = (child.pid for child in psutil.Process().children() if module in child.cmdline())
    return int(pid)
