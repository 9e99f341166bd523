"""One gateway with its engines: starts its parts in order and stops them in reverse."""

import asyncio
import fcntl
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import msgspec
import structlog
from msgspec import Struct
from prometheus_client import CollectorRegistry

from gateway.database.connection import Database
from gateway.database.embedded import EmbeddedPostgres
from gateway.database.migration import migrate
from gateway.database.supervision import DatabaseWatch
from gateway.deletion.requests import DeletedRequests
from gateway.deletion.sweeper import ErasureSweeper
from gateway.engines.colocated import ColocatedEngine
from gateway.engines.start import Startable, engine_ready, engine_sockets, start_engine
from gateway.engines.supervisor import EngineSupervisor
from gateway.engines.upstream.client import UpstreamEngine
from gateway.engines.upstream.local_model import read_local_model
from gateway.engines.upstream.start import upstream_engine, upstreams
from gateway.errors import InvalidRequest, StartupFailure
from gateway.files.bounds import FileBounds
from gateway.files.store import FileStore
from gateway.files.sweeper import FileSweeper
from gateway.generation.holds.holds import Holds
from gateway.generation.metrics import GatewayMetrics
from gateway.generation.queue.load import QueueBounds
from gateway.generation.scheduler import Scheduler
from gateway.generation.service import GenerationService
from gateway.generation.text.token_codec import TextCodec
from gateway.generation.text.tokenizer import ChatTokenizer, model_fingerprint, model_folder
from gateway.generation.text.workers import TextWorkers
from gateway.history.engine_costs import EngineCostWriter
from gateway.history.key_uses import KeyUses
from gateway.history.retention import HistoryRetention, Kept
from gateway.history.writer import HistoryWriter
from gateway.jobs.batches.endpoint import Endpoints
from gateway.jobs.batches.jobs import BatchJobs, BatchOptions
from gateway.jobs.batches.limits import BatchLimits
from gateway.parts import Parts
from gateway.prediction.features.embedder_model import find_embedder
from gateway.prediction.lifecycle.auto_training import AutoTraining
from gateway.prediction.lifecycle.comparison import VersionComparer
from gateway.prediction.lifecycle.listener import PredictorListener
from gateway.prediction.lifecycle.log_import import LogImport, TokenCounters
from gateway.prediction.lifecycle.registry import Registry
from gateway.prediction.lifecycle.runs import TrainingRuns
from gateway.prediction.lifecycle.trial.trial import VersionTrial
from gateway.prediction.serving.predictor import LengthPredictor
from gateway.scheduling.policy import Options, build_policy
from gateway.served_model import Progress, ServedModel
from gateway.settings import Settings
from gateway.tenancy.admin_key import AdminKey, ensure_admin_key
from gateway.tenancy.authentication import Authenticator
from gateway.tenancy.changes import TenancyChanges
from gateway.tenancy.demo import api_key_file, ensure_demo
from gateway.usage.limits.running import RunningLimits, running_limits

LOCK_FILE: Final = "gateway.lock"  # in the data folder; a running gateway keeps it open
BATCH_OWNER_FILE: Final = "batch_owner"
OTHERS: Final = 0o066  # read and write by group and others

log = structlog.get_logger()


class GatewayNode(Struct, frozen=True):
    """The running parts that the API uses."""

    settings: Settings
    served: ServedModel
    database: Database
    parts: Parts
    admin_key: AdminKey
    authenticator: Authenticator
    changes: TenancyChanges
    history: HistoryWriter
    service: GenerationService
    registry: Registry
    runs: TrainingRuns
    comparison: VersionComparer
    logs: LogImport
    files: FileStore
    jobs: BatchJobs
    limits: RunningLimits
    demo_key: str | None


class DemoApp(Struct):
    """An application that a model folder's `apps.json` suggests for the demo tenant."""

    name: str
    instruction: str


@asynccontextmanager
async def running_node(
    settings: Settings,
    served: ServedModel,
    endpoints: Endpoints,
    say: Progress,
    registry: CollectorRegistry,
) -> AsyncIterator[GatewayNode]:
    """Start every part; on exit, stop them in reverse. StartupFailure gives the reason.

    `endpoints` are those that lines of batch jobs may name. Metrics go to `registry`.
    """
    data_dir = settings.data_folder
    async with AsyncExitStack() as stack:
        stack.enter_context(_data_folder(data_dir))
        say("reading the tokenizer")
        embedder, folder = await asyncio.gather(
            asyncio.to_thread(find_embedder, settings.embedder),
            asyncio.to_thread(model_folder, served.location),
        )
        tokenizer = _tokenizer(folder, settings)
        demo_apps = _demo_apps(folder, tokenizer)
        servers = _servers(settings, served, folder, tokenizer)
        engines: list[ColocatedEngine] | list[UpstreamEngine] = servers or [
            ColocatedEngine(str(socket)) for socket in engine_sockets(settings)
        ]
        _check_policy(settings, len(engines))
        engine_process = await _start_engine(stack, settings, served, say)
        database_watch = await _find_database(stack, settings, say)
        url = database_watch.url
        say("preparing the database")
        await asyncio.to_thread(migrate, url)
        database = await Database.open(url)
        stack.push_async_callback(database.close)

        history = await _start_history(stack, database, settings)
        say("starting the length predictor")
        model = served.name
        model_hash = await asyncio.to_thread(model_fingerprint, folder)
        predictor = LengthPredictor(
            model=model,
            model_hash=model_hash,
            budget_s=settings.prediction_budget_ms / 1000,
            sessions=database.sessions,
            embedder=embedder,
            keep_late=history.add_embeddings,
        )
        versions, runs = await _start_prediction(
            stack, predictor, database, url, automatic=settings.automatic_training
        )
        limits = await stack.enter_async_context(
            running_limits(database.sessions, url, model=model)
        )
        scheduler = Scheduler(
            model,
            engines,
            history,
            predictor,
            policy=settings.policy,
            options=_options(settings),
            tau_floor=settings.tau_floor,
            outage_s=settings.max_engine_outage_s,
            metrics=GatewayMetrics(registry),
            bounds=_bounds(settings),
            holds=Holds(
                limits.ledger,
                limits.prices,
                lessor=limits.lessor,
                spent_budget=settings.spent_budget,
            ),
        )
        _account_for_history(scheduler, history)
        workers = TextWorkers()
        stack.callback(workers.close)
        service = GenerationService(model, tokenizer, predictor, scheduler, workers)
        _start_costs(stack, database, scheduler)
        await scheduler.start()
        for engine in engines:
            stack.push_async_callback(engine.close)
        stack.callback(service.stop)
        say(f"connecting to {settings.upstream}" if servers else "loading the model")
        started: list[Startable] = [scheduler.engine, *servers]
        if engine_process is not None:
            started.append(engine_process)
        await engine_ready(scheduler.engine.ready(), started, settings.max_engine_start_s)
        # Keys are created last: a start that fails shows none.
        admin_key = ensure_admin_key(data_dir, settings.admin_key)
        demo_key = await ensure_demo(
            database.sessions, demo_apps, settings.api_key, api_key_file(data_dir)
        )
        files = _start_files(stack, database, settings)
        jobs = await _start_jobs(stack, settings, database, files, service, endpoints)
        authenticator = _start_authenticator(stack, database, settings)
        changes = _follow_changes(stack, database, url, authenticator, scheduler, files)
        yield GatewayNode(
            settings=settings,
            served=served,
            database=database,
            parts=Parts(scheduler.engine, predictor, database_watch, history, engine_process),
            admin_key=admin_key,
            authenticator=authenticator,
            changes=changes,
            history=history,
            service=service,
            registry=versions,
            runs=runs,
            comparison=VersionComparer(database.sessions, database_url=url, embedder=embedder),
            logs=LogImport(
                database.sessions, model=model, counting=_counting(tokenizer), embedder=embedder
            ),
            files=files,
            jobs=jobs,
            limits=limits,
            demo_key=demo_key,
        )
        say("stopping the parts")


@contextmanager
def _data_folder(data_dir: Path) -> Iterator[None]:
    """Create the data folder and lock it: one gateway at a time. StartupFailure if it is in use.

    It holds what tenants sent, so other users of the machine may not read it. They may traverse
    it: as root, Postgres does.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if (mode := stat.S_IMODE(data_dir.stat().st_mode)) & OTHERS:
            data_dir.chmod(mode & ~OTHERS)
            log.warning("data_folder_made_private", folder=str(data_dir), mode=f"{mode:o}")
        lock = (data_dir / LOCK_FILE).open("w")
    except OSError as error:
        raise StartupFailure(f"LMAAS_DATA_DIR: {data_dir}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartupFailure(
                f"another gateway uses {data_dir}; set LMAAS_DATA_DIR to another folder"
            ) from error
        yield


async def _find_database(stack: AsyncExitStack, settings: Settings, say: Progress) -> DatabaseWatch:
    """The watch over the database of the settings, or over an embedded one, which is started."""
    postgres = None
    url = settings.database_url
    if url is None:
        say("starting the embedded Postgres")
        postgres = EmbeddedPostgres(settings.data_folder)
        stack.push_async_callback(asyncio.to_thread, postgres.stop)
        url = await asyncio.to_thread(postgres.start)
    watch = DatabaseWatch(url, postgres)
    stack.push_async_callback(watch.close)
    return watch


async def _start_history(
    stack: AsyncExitStack, database: Database, settings: Settings
) -> HistoryWriter:
    """The writer of history, with its spool in the data folder; what is too old is deleted."""
    spool = settings.data_folder / "spool"
    kept = Kept(
        history=settings.history_days, audit=settings.audit_days, set_aside=settings.set_aside_days
    )
    history = HistoryWriter(database.sessions, spool, max_bytes=settings.max_spool_bytes)
    await history.start()
    stack.push_async_callback(history.close)
    retention = HistoryRetention(database.sessions, kept, spool, history.counts)
    retention.start()
    stack.push_async_callback(retention.close)
    return history


async def _start_prediction(
    stack: AsyncExitStack,
    predictor: LengthPredictor,
    database: Database,
    url: str,
    *,
    automatic: bool,
) -> tuple[Registry, TrainingRuns]:
    """The predictor's process, its versions, and the runs that train them; `automatic` ones too."""
    sessions, model, embedder = database.sessions, predictor.model, predictor.embedder
    await predictor.start()
    stack.push_async_callback(predictor.close)
    registry = Registry(sessions, embedder=embedder.id, trial=VersionTrial(embedder))
    listener = PredictorListener(registry, predictor, url)
    await listener.start()
    stack.push_async_callback(listener.close)
    runs = TrainingRuns(
        sessions,
        model=model,
        model_hash=predictor.model_hash,
        database_url=url,
        embedder=embedder,
    )
    await runs.recover()
    stack.push_async_callback(runs.close)
    training = AutoTraining(
        sessions,
        runs,
        predictor.drift,
        model=model,
        database_url=url,
        enabled=automatic,
    )
    training.start()
    stack.push_async_callback(training.close)
    return registry, runs


def _account_for_history(scheduler: Scheduler, history: HistoryWriter) -> None:
    """Export what went wrong with history, and charge what a killed gateway was running."""
    scheduler.metrics.count_history(history.counts)
    for record in history.lost:
        scheduler.holds.charge_lost(record)


def _start_files(stack: AsyncExitStack, database: Database, settings: Settings) -> FileStore:
    """The files' store, and the sweeper of what is expired."""
    sweeper = FileSweeper(database.sessions)
    sweeper.start()
    stack.push_async_callback(sweeper.close)
    return FileStore(database.sessions, FileBounds.of(settings), wake=sweeper.wake)


async def _start_engine(
    stack: AsyncExitStack, settings: Settings, served: ServedModel, say: Progress
) -> EngineSupervisor | None:
    """The supervised engine process; None if the settings name an engine started elsewhere."""
    if settings.engine_socket or settings.upstream:
        return None
    say("starting the engine")
    supervisor = await start_engine(settings, served.location, settings.data_folder / "engine.log")
    stack.push_async_callback(supervisor.stop)
    return supervisor


def _servers(
    settings: Settings, served: ServedModel, folder: Path, tokenizer: ChatTokenizer
) -> list[UpstreamEngine]:
    """The clients of the servers that run the model, if the settings name any. StartupFailure."""
    named = upstreams(settings)
    if not named:
        return []
    if build_policy(settings.policy, _options(settings)).lockstep:
        raise StartupFailure(
            f"LMAAS_POLICY is {settings.policy}, which needs lock step, and the server in "
            "LMAAS_UPSTREAM has none; accepted are policies without it, such as lmaas"
        )
    model = read_local_model(folder, served.name, tokenizer.vocabulary, TextCodec(tokenizer))
    return [upstream_engine(settings, upstream, model) for upstream in named]


def _check_policy(settings: Settings, engines: int) -> None:
    """StartupFailure if the policy is not for this number of engines."""
    try:
        build_policy(settings.policy, _options(settings), engines)
    except ValueError as error:
        raise StartupFailure(
            f"LMAAS_POLICY: {error}, and the settings name {engines}; accepted are policies for "
            "several, such as lmaas"
        ) from error


def _start_costs(stack: AsyncExitStack, database: Database, scheduler: Scheduler) -> None:
    """What writes the learned costs of the engine's steps."""
    costs = EngineCostWriter(database.sessions, scheduler.measured_engine)
    costs.start()
    stack.push_async_callback(costs.close)


def _start_authenticator(
    stack: AsyncExitStack, database: Database, settings: Settings
) -> Authenticator:
    """What admits API keys, and the writer of when they were used."""
    uses = KeyUses(database.sessions)
    uses.start()
    stack.push_async_callback(uses.close)
    return Authenticator(
        database.sessions,
        key_lookup_s=settings.key_lookup_s,
        cache_s=settings.key_cache_s,
        used=uses.note,
    )


def _follow_changes(
    stack: AsyncExitStack,
    database: Database,
    url: str,
    authenticator: Authenticator,
    scheduler: Scheduler,
    files: FileStore,
) -> TenancyChanges:
    """What follows changes of tenants, apps and keys, and erases what deleted ones leave."""
    sweeper = ErasureSweeper(database.sessions, files.wake)
    sweeper.start()
    stack.push_async_callback(sweeper.close)
    requests = DeletedRequests(database.sessions, scheduler)
    reactions = (authenticator.follow_changes, requests.end, sweeper.wake)
    changes = TenancyChanges(database.sessions, url, reactions)
    changes.start()
    stack.push_async_callback(changes.close)
    return changes


def _options(settings: Settings) -> Options:
    """The policies' options, from the settings."""
    return Options(
        admission=None if settings.admission == "own" else settings.admission,
        waste_share=settings.waste_share,
        waste_reads=settings.waste_reads,
        max_delay_s=settings.max_delay_s,
        waiting_weight=settings.waiting_weight,
        fixed_batch=settings.fixed_batch,
        shares=settings.shares,
    )


def _bounds(settings: Settings) -> QueueBounds:
    """The most that may be queued."""
    return QueueBounds(
        tokens=settings.max_queued_tokens,
        tenant_tokens=settings.max_tenant_queued_tokens,
        requests=settings.max_queued_requests,
        tenant_requests=settings.max_tenant_queued_requests,
    )


async def _start_jobs(
    stack: AsyncExitStack,
    settings: Settings,
    database: Database,
    files: FileStore,
    service: GenerationService,
    endpoints: Endpoints,
) -> BatchJobs:
    """The batch jobs, within the settings' bounds and with the engine's pages."""
    info = service.scheduler.engine.info
    assert info is not None, "the engine has answered"
    limits = BatchLimits(
        lines=settings.max_batch_lines,
        tenant_batches=settings.max_tenant_batches,
        line_bytes=settings.max_batch_line_bytes,
        line_values=max(settings.max_body_values, info.context_tokens),
    )
    options = BatchOptions(
        limits=limits,
        page_tokens=info.kv.page_tokens,
        prefix_sharing=settings.prefix_sharing,
    )
    jobs = BatchJobs(database.sessions, files, service, endpoints, options)
    service.scheduler.metrics.count_job_faults(jobs.faults)
    await jobs.start(settings.data_folder / BATCH_OWNER_FILE)
    stack.push_async_callback(jobs.close)
    return jobs


def _tokenizer(folder: Path, settings: Settings) -> ChatTokenizer:
    """The model's tokenizer, with the form of tool calls that the settings name, if any."""
    wanted = settings.tool_parser
    return ChatTokenizer(folder, None if wanted == "auto" else wanted)


def _counting(tokenizer: ChatTokenizer) -> TokenCounters:
    """Token counts of the served model, for imported logs."""

    def prompt(instruction: str, user_input: str) -> int:
        turns = [("system", instruction), ("user", user_input)]
        chat = [{"role": role, "content": content} for role, content in turns if content]
        return len(tokenizer.encode_chat(chat))

    return TokenCounters(text=lambda text: len(tokenizer.encode(text)), prompt=prompt)


def _demo_apps(folder: Path, tokenizer: ChatTokenizer) -> list[tuple[str, str]]:
    """Name and instruction of the demo tenant's apps in the model folder's `apps.json`, if any.

    StartupFailure if the model's chat template refuses an instruction.
    """
    file = folder / "apps.json"
    if not file.is_file():
        return []
    apps = msgspec.json.decode(file.read_bytes(), type=list[DemoApp])
    for app in apps:
        try:
            tokenizer.check_instruction(app.instruction)
        except InvalidRequest as error:
            raise StartupFailure(f"LMAAS_MODEL: {file}: app {app.name!r}: {error}") from error
    return [(app.name, app.instruction) for app in apps]
