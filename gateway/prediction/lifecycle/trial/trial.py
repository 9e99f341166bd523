"""Tries a version in a process that may die or hang, before it is stored or activated."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections import OrderedDict
from contextlib import suppress
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from gateway.child_process import child_environment
from gateway.errors import PredictorBroken, PredictorRefused, Unavailable
from gateway.prediction.features.embedder_model import EmbedderModel
from gateway.prediction.model.artefact import check_whole, checksum

COMMAND: Final = (sys.executable, "-m", "gateway.prediction.lifecycle.trial.process")
ENVIRONMENT: Final = {"OMP_NUM_THREADS": "1"}  # read by libraries at import
TRIAL_S: Final = 120.0  # a trial takes a second or two on an idle machine
CPU_S: Final = 60  # the same, of processor time
MAX_CONCURRENT: Final = 1
MAX_PASSED: Final = 64  # versions that need no second trial


class TrialResult(Struct, frozen=True):
    """The output of the process: why the version is refused, or what failed; neither if usable."""

    refused: str | None = None
    failed: str | None = None


class Trial(Protocol):
    """Tries versions."""

    async def check(self, stored: bytes, *, model_hash: str, embedder: str | None) -> None:
        """PredictorRefused, or PredictorBroken if the version cannot be used."""


class VersionTrial:
    """Tries versions that read the embeddings of this `embedder`, one at a time."""

    def __init__(
        self, embedder: EmbedderModel, *, within_s: float = TRIAL_S, cpu_s: int = CPU_S
    ) -> None:
        """`within_s` and `cpu_s` bound a trial's time and processor time."""
        self._cpu_s = cpu_s
        self._dims = embedder.dims
        self._within_s = within_s
        self._semaphore = asyncio.Semaphore(MAX_CONCURRENT)
        self._passed: OrderedDict[tuple[bytes, str, str | None], None] = OrderedDict()

    async def check(self, stored: bytes, *, model_hash: str, embedder: str | None) -> None:
        """Load the version as the predictor process does, and predict with it.

        PredictorRefused if it is damaged, or of another model, embedder or feature version;
        PredictorBroken if that fails, ends the process or takes too long. Unavailable if another
        trial takes too long.
        """
        await asyncio.to_thread(check_whole, stored)
        key = await asyncio.to_thread(checksum, stored), model_hash, embedder
        try:
            async with asyncio.timeout(self._within_s):
                await self._semaphore.acquire()
        except TimeoutError as error:
            raise Unavailable(
                "another version is being tried; try again when it is done"
            ) from error
        try:
            if key not in self._passed:
                await self._run(stored, model_hash, embedder)
        finally:
            self._semaphore.release()
        self._passed[key] = None
        while len(self._passed) > MAX_PASSED:
            self._passed.popitem(last=False)

    async def _run(self, stored: bytes, model_hash: str, embedder: str | None) -> None:
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, "--model-hash", model_hash, "--dims", str(self._dims)),
            *("--cpu-s", str(self._cpu_s)),
            *(() if embedder is None else ("--embedder", embedder)),
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,  # Ctrl-C is the gateway's to handle
            env=child_environment() | ENVIRONMENT,
        )
        try:
            async with asyncio.timeout(self._within_s):
                stdout, _ = await process.communicate(stored)
        except TimeoutError as error:
            message = f"a trial of the predictor did not end within {self._within_s:g} s"
            raise PredictorBroken(message) from error
        finally:
            with suppress(ProcessLookupError):
                process.kill()
        try:
            result = msgspec.json.decode(stdout, type=TrialResult)
        except msgspec.DecodeError as error:
            raise PredictorBroken(f"a trial of the predictor {_end(process.returncode)}") from error
        if result.refused is not None:
            raise PredictorRefused(result.refused)
        if result.failed is not None:
            raise PredictorBroken(f"a trial of the predictor failed: {result.failed}")


def _end(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by signal {-code}"
    return f"ended without a result, with code {code}"
