"""Starts, supervises and queries the predictor process."""

import asyncio
import itertools
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID

import structlog

from gateway.child_process import child_environment, end_child
from gateway.errors import PredictorRefused, Unavailable
from gateway.prediction.features.embedder_model import EmbedderModel, packaged_embedder
from gateway.prediction.messages import FREE, Form
from gateway.prediction.serving.frames import (
    LoadVersion,
    Ping,
    Pong,
    PredictorReply,
    Ready,
    RequestDropped,
    RequestsStarted,
    ScoreReply,
    ScoreRequest,
    VersionLoaded,
    encode_frame,
    read_reply,
)
from gateway.prediction.serving.heartbeat import Heartbeat
from gateway.prediction.serving.kept_version import KeptVersion, identity_of
from gateway.prediction.serving.score_queue import MAX_BATCH_REQUESTS

log = structlog.get_logger()

COMMAND: Final = (sys.executable, "-m", "gateway.prediction.serving.process")
ENVIRONMENT: Final = {  # read by libraries at import
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
}
FIRST_BACKOFF_S: Final = 0.5
MAX_BACKOFF_S: Final = 30.0
REPLY_TIMEOUT_S: Final = 10.0  # late scores revise what runs; training needs the text vectors
MAX_LOADS: Final = 3  # of a version: how often the process may end before it has predicted
MAX_UNSENT_BYTES: Final = 1 << 20  # backlog above which requests are refused

OnReply: TypeAlias = Callable[[ScoreReply | None], None]


class FirstReply(asyncio.Future[ScoreReply | None]):
    """The first reply to the request of this number; None if none comes.

    None comes where the process died, or dropped the request at its deadline.
    """

    number: int


class _Pending(NamedTuple):
    """A request without its last reply: the future of its first, and who wants all."""

    first: FirstReply
    on_reply: OnReply | None

    def receive(self, reply: ScoreReply | None) -> None:
        """Pass on a reply; None: no other comes."""
        if not self.first.done():
            self.first.set_result(reply)
        if self.on_reply is not None:
            self.on_reply(reply)


class PredictorClient:
    """One supervised predictor process; if it dies, the loading of a version fails.

    A process that hangs is killed and restarted. `embedder` makes the embeddings, by default the
    packaged model. A version with which the process has ended `MAX_LOADS` times before it predicted
    anything is broken: the one before it is restored, and `on_broken` is called with both ids.
    """

    def __init__(
        self,
        embedder: EmbedderModel | None = None,
        on_broken: Callable[[UUID, UUID | None], None] | None = None,
    ) -> None:
        self.embedder = embedder or packaged_embedder()
        self._numbers = itertools.count()
        self._process: Process | None = None
        self._ready = asyncio.Event()
        self._pending: dict[int, _Pending] = {}
        self._started: list[int] = []  # numbers to send
        self._loading: dict[UUID, asyncio.Future[None]] = {}
        self._load: KeptVersion | None = None  # what a new process begins with
        self._proven: KeptVersion | None = None  # the last that has predicted
        self._on_trial: KeptVersion | None = None  # it was sent, and has predicted nothing yet
        self._failed_loads: Counter[tuple[UUID, bytes]] = Counter()
        self._on_broken = on_broken
        self._heartbeat: Heartbeat | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """The process id; None while there is no process."""
        return self._process.pid if self._process is not None else None

    @property
    def connected(self) -> bool:
        """Whether the process is ready and answers."""
        heartbeat = self._heartbeat
        return self._ready.is_set() and not (heartbeat and heartbeat.late)

    def start(self) -> None:
        """Start the process in the background."""
        self._supervisor = asyncio.create_task(self._supervise(), name="predictor supervisor")

    async def ready(self) -> None:
        """Return once the process is ready."""
        await self._ready.wait()

    async def close(self) -> None:
        """Stop the process; it is killed if it does not exit."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with suppress(asyncio.CancelledError):
                await self._supervisor

    def request_score(
        self,
        *,
        app: UUID,
        instruction_hash: bytes,
        instruction: str,
        user_input: str,
        features: bytes,
        embed: bool = True,
        form: Form = FREE,
        on_reply: OnReply | None = None,
    ) -> FirstReply:
        """Send a request. Unavailable if the process is not ready or its backlog is too large.

        `on_reply` is called with each reply, and with None where a last one will not come; it must
        not raise.
        """
        number = next(self._numbers)
        deadline_s = time.monotonic() + REPLY_TIMEOUT_S
        self._send(
            ScoreRequest(
                number,
                deadline_s,
                app,
                instruction_hash,
                instruction,
                user_input,
                features,
                embed,
                form,
            )
        )
        first = FirstReply(loop=asyncio.get_running_loop())
        first.number = number
        self._pending[number] = _Pending(first, on_reply)
        return first

    def started(self, first: FirstReply) -> None:
        """The request waits no more: those that wait are scored before it.

        The process hears of it only where that changes an order: with more than a micro-batch open.
        """
        if first.done() or len(self._pending) <= MAX_BATCH_REQUESTS:
            return
        if not self._started:
            asyncio.get_running_loop().call_soon(self._send_started)
        self._started.append(first.number)

    def _send_started(self) -> None:
        numbers, self._started = tuple(self._started), []
        with suppress(Unavailable):  # then no order is left to change
            self._send(RequestsStarted(numbers))

    async def load(self, predictor: UUID, model_hash: str, artefact: bytes) -> None:
        """Switch the process to a version, which also holds after a restart.

        Without a process the next one starts with it. PredictorRefused, if it is broken too, leaves
        the previous version in use.
        """
        load = LoadVersion(predictor, model_hash, artefact)
        if self._failed_loads[identity_of(load)] >= MAX_LOADS:
            raise PredictorRefused(
                f"the predictor process ended {MAX_LOADS} times with this version, which had not "
                "predicted anything"
            )
        kept = await asyncio.to_thread(KeptVersion, load)
        if not self._ready.is_set():
            self._load = kept
            return
        loaded = self._loading.setdefault(predictor, asyncio.get_running_loop().create_future())
        try:
            self._send(load)
            self._on_trial = kept
            await loaded
        finally:
            self._loading.pop(predictor, None)
        self._load = kept

    def _send(self, message: ScoreRequest | RequestsStarted | LoadVersion) -> None:
        process = self._process
        if process is None or process.stdin is None or not self._ready.is_set():
            raise Unavailable("the predictor process is not ready")
        transport = process.stdin.transport
        if (
            isinstance(message, ScoreRequest)
            and transport.get_write_buffer_size() > MAX_UNSENT_BYTES
        ):
            raise Unavailable("the predictor process does not keep up")
        if transport.is_closing():
            raise Unavailable("the predictor process has ended")
        process.stdin.write(encode_frame(message))

    async def _supervise(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while True:
            began = time.monotonic()
            try:
                code = await self._run()
            except OSError as error:
                log.error("predictor_process_not_started", reason=str(error))
                code = None
            if time.monotonic() - began > MAX_BACKOFF_S:
                backoff_s = FIRST_BACKOFF_S
            self.restarts += 1
            log.warning("predictor_process_ended", code=code, restart_in_s=backoff_s)
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)

    async def _run(self) -> int | None:
        """Start the process and handle its replies until it exits; returns the exit code.

        None if a reply could not be handled: the process is ended.
        """
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            *("--embedder", self.embedder.folder),
            stdin=PIPE,
            stdout=PIPE,
            env=child_environment() | ENVIRONMENT,
            start_new_session=True,  # Ctrl-C is the gateway's to handle
        )
        log.info("predictor_process_started", pid=process.pid)
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        self._heartbeat = heartbeat = Heartbeat(partial(_ping, process.stdin))
        watch = asyncio.create_task(_kill_hung(process, heartbeat), name="predictor heartbeat")
        try:
            while True:
                reply = await read_reply(process.stdout)
                heartbeat.heard()
                if isinstance(reply, Ready):
                    log.info("predictor_process_ready", after_s=round(time.monotonic() - began, 1))
                    if self._load is None:
                        self._ready.set()
                    else:  # ready once it has loaded the version in use
                        await self._restore(process.stdin)
                elif isinstance(reply, VersionLoaded) and self._is_outdated:
                    await self._restore(process.stdin)
                else:
                    self._handle_reply(reply)
        except asyncio.IncompleteReadError:
            self._count_failed_load()
            return await process.wait()
        except OSError:
            raise
        except Exception:  # the next process may do, or the version before
            log.exception("predictor_reply_unreadable", pid=process.pid)
            self._count_failed_load()
            return None
        finally:
            watch.cancel()
            self._ready.clear()
            self._process = self._on_trial = None
            self._fail_pending()
            await end_child(process)

    @property
    def _is_outdated(self) -> bool:
        """Whether a new process was sent another version than the one that is in use now."""
        return (
            not self._ready.is_set() and self._load is not None and self._on_trial is not self._load
        )

    async def _restore(self, pipe: asyncio.StreamWriter) -> None:
        """Send the version in use to a new process, which may become another meanwhile."""
        kept = None
        while kept is not self._load:
            kept = self._load
            assert kept is not None
            load = await asyncio.to_thread(kept.read)
        pipe.write(encode_frame(load))
        self._on_trial = kept

    def _handle_reply(self, reply: PredictorReply) -> None:
        match reply:
            case ScoreReply(number=number, last=last):
                if reply.scored is not None and self._on_trial is not None:
                    self._passed(reply.scored.predictor)
                pending = self._pending.pop(number) if last else self._pending[number]
                pending.receive(reply)
            case RequestDropped(number=number):
                self._pending.pop(number).receive(None)
            case VersionLoaded(predictor=predictor, error=error):
                self._ready.set()
                if error is not None:
                    self._on_trial = None
                loaded = self._loading.get(predictor)
                if loaded is None or loaded.done():
                    report = log.info if error is None else log.error
                    report("predictor_version_restored", predictor=str(predictor), error=error)
                elif error is None:
                    loaded.set_result(None)
                else:
                    loaded.set_exception(PredictorRefused(error))
            case Ready() | Pong():
                pass

    def _passed(self, predictor: UUID) -> None:
        """A version has predicted."""
        load = self._on_trial
        if load is not None and load.predictor == predictor:
            self._proven, self._on_trial = load, None
            del self._failed_loads[load.identity]

    def _count_failed_load(self) -> None:
        """The process has ended: with a version that has predicted nothing, that may be why."""
        load = self._on_trial
        if load is None:
            return
        identity = load.identity
        self._failed_loads[identity] += 1
        log.warning(
            "predictor_version_load_failed",
            predictor=str(load.predictor),
            tries=self._failed_loads[identity],
        )
        if load is self._load and self._failed_loads[identity] >= MAX_LOADS:
            self._load = self._proven if self._proven is not load else None
            log.error("predictor_version_broken", predictor=str(load.predictor))
            if self._on_broken is not None:
                before = None if self._load is None else self._load.predictor
                self._on_broken(load.predictor, before)

    def _fail_pending(self) -> None:
        pending, self._pending = self._pending, {}
        for each in pending.values():
            each.receive(None)
        for loading in self._loading.values():
            if not loading.done():
                loading.set_exception(Unavailable("the predictor process ended"))


def _ping(pipe: asyncio.StreamWriter) -> None:
    """Ask for a sign of life; not where the pipe is closed, since the end is noticed anyway."""
    if not pipe.is_closing():
        pipe.write(encode_frame(Ping()))


async def _kill_hung(process: Process, heartbeat: Heartbeat) -> None:
    """Kill the process once it hangs; its supervisor then restarts it."""
    await heartbeat.lost()
    log.warning("predictor_process_hung", pid=process.pid, silent_s=round(heartbeat.silent_s, 1))
    process.kill()
