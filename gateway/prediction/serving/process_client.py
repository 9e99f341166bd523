"""The gateway's side of the predictor process: starts it, talks to it, starts it again."""

import asyncio
import itertools
import sys
import time
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from typing import Final
from uuid import UUID

import structlog

from gateway.child_process import child_environment, end_child
from gateway.errors import PredictorRefused, Unavailable
from gateway.prediction.serving.frames import (
    LoadVersion,
    PredictorReply,
    Ready,
    RequestDropped,
    ScoreReply,
    ScoreRequest,
    VersionLoaded,
    encode_frame,
    read_reply,
)

log = structlog.get_logger()

COMMAND: Final = (sys.executable, "-m", "gateway.prediction.serving.process")
ENVIRONMENT: Final = {  # its libraries read these when they are imported
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
}
FIRST_BACKOFF_S: Final = 0.5
MAX_BACKOFF_S: Final = 30.0
REPLY_TIMEOUT_S: Final = 10.0  # a text is wanted for training even after its answer began
MAX_UNSENT_BYTES: Final = 1 << 20  # the process reads no more: ask it nothing


class PredictorClient:
    """One predictor process, supervised; a version that is being loaded fails with it."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._process: Process | None = None
        self._ready = asyncio.Event()
        self._asked: dict[int, asyncio.Future[ScoreReply | None]] = {}
        self._loading: dict[UUID, asyncio.Future[None]] = {}
        self._load: LoadVersion | None = None
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process's id; None while there is none."""
        return self._process.pid if self._process is not None else None

    @property
    def connected(self) -> bool:
        """Whether the process answers."""
        return self._ready.is_set()

    def start(self) -> None:
        """Start the process in the background."""
        self._supervisor = asyncio.create_task(self._supervise(), name="predictor supervisor")

    async def ready(self) -> None:
        """Return once the process answers."""
        await self._ready.wait()

    async def close(self) -> None:
        """End the process; one that does not go is killed."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with suppress(asyncio.CancelledError):
                await self._supervisor

    def ask(
        self,
        *,
        app: UUID,
        instruction_hash: bytes,
        instruction: str,
        user_input: str,
        features: bytes,
    ) -> asyncio.Future[ScoreReply | None]:
        """Put a question to the process. Unavailable without one, or where it does not keep up.

        None comes where the process died or was too far behind.
        """
        number = next(self._numbers)
        deadline_s = time.monotonic() + REPLY_TIMEOUT_S
        self._send(
            ScoreRequest(
                number, deadline_s, app, instruction_hash, instruction, user_input, features
            )
        )
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        return answer

    async def load(self, predictor: UUID, model_hash: str, artefact: bytes) -> None:
        """Have the process score with a version from now on, also after a restart.

        While there is no process the next one begins with it. PredictorRefused leaves the
        version before in use.
        """
        load = LoadVersion(predictor, model_hash, artefact)
        if not self._ready.is_set():
            self._load = load
            return
        loaded = self._loading.setdefault(predictor, asyncio.get_running_loop().create_future())
        try:
            self._send(load)
            await loaded
        finally:
            self._loading.pop(predictor, None)
        self._load = load

    def _send(self, message: ScoreRequest | LoadVersion) -> None:
        process = self._process
        if process is None or process.stdin is None or not self._ready.is_set():
            raise Unavailable("the predictor process is not ready")
        transport = process.stdin.transport
        if (
            isinstance(message, ScoreRequest)
            and transport.get_write_buffer_size() > MAX_UNSENT_BYTES
        ):
            raise Unavailable("the predictor process does not keep up")
        process.stdin.write(encode_frame(message))

    async def _supervise(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while True:
            began = time.monotonic()
            try:
                code: int | None = await self._run()
            except OSError as error:
                log.error("predictor_process_not_started", reason=str(error))
                code = None
            if time.monotonic() - began > MAX_BACKOFF_S:
                backoff_s = FIRST_BACKOFF_S
            log.warning("predictor_process_ended", code=code, restart_in_s=backoff_s)
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)

    async def _run(self) -> int:
        """Start the process and read its replies until it ends; its exit code."""
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=PIPE,
            stdout=PIPE,
            env=child_environment() | ENVIRONMENT,
            start_new_session=True,  # Ctrl-C is the gateway's to handle
        )
        log.info("predictor_process_started", pid=process.pid)
        self._process = process
        assert process.stdout is not None
        try:
            while True:
                reply = await read_reply(process.stdout)
                if isinstance(reply, Ready):
                    log.info("predictor_process_ready", after_s=round(time.monotonic() - began, 1))
                    if self._load is None:
                        self._ready.set()
                    else:  # ready once it scores with the version that the one before had
                        assert process.stdin is not None
                        process.stdin.write(encode_frame(self._load))
                else:
                    self._take(reply)
        except asyncio.IncompleteReadError:
            return await process.wait()
        finally:
            self._ready.clear()
            self._process = None
            self._fail_waiting()
            await end_child(process)

    def _take(self, reply: PredictorReply) -> None:
        match reply:
            case ScoreReply(number=number):
                self._asked.pop(number).set_result(reply)
            case RequestDropped(number=number):
                self._asked.pop(number).set_result(None)
            case VersionLoaded(predictor=predictor, error=error):
                self._ready.set()
                loaded = self._loading.get(predictor)
                if loaded is None or loaded.done():
                    report = log.info if error is None else log.error
                    report("predictor_version_restored", predictor=str(predictor), error=error)
                elif error is None:
                    loaded.set_result(None)
                else:
                    loaded.set_exception(PredictorRefused(error))
            case Ready():
                pass

    def _fail_waiting(self) -> None:
        asked, self._asked = self._asked, {}
        for each in asked.values():
            each.set_result(None)
        for loading in self._loading.values():
            if not loading.done():
                loading.set_exception(Unavailable("the predictor process ended"))
