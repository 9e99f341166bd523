"""Compares two versions: their training metrics, and both on the newest history."""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import suppress
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Struct

from gateway.child_process import child_environment
from gateway.database.errors import Sessions
from gateway.errors import Conflict, Unavailable
from gateway.prediction.features.embedder_model import EmbedderModel, packaged_embedder
from gateway.prediction.lifecycle.registry import Registry
from gateway.prediction.training.scorecard import Scorecard
from models import Predictor

COMMAND: Final = (sys.executable, "-m", "gateway.prediction.lifecycle.comparison_process")
TIMEOUT_S: Final = 120.0
MAX_CONCURRENT: Final = 1  # a comparison occupies a core


class ProcessResult(Struct, frozen=True):
    """The output of `gateway.prediction.lifecycle.comparison_process`."""

    rows: int = 0
    unseen: bool = False
    cards: list[Scorecard] = []
    error: str | None = None


class VersionComparison(Struct, frozen=True):
    """Both versions, and their scorecards on the same newest `rows` of history.

    `unseen`: neither was trained or calibrated on any of these rows.

    Without scorecards `why_not` states the reason: too few rows, or a version with an older feature
    version or another embedder, which cannot be used any more.
    """

    versions: tuple[Predictor, Predictor]
    rows: int
    unseen: bool
    scorecards: tuple[Scorecard, Scorecard] | None
    why_not: str | None


class VersionComparer:
    """Compares versions in a child process, one comparison at a time."""

    def __init__(
        self, sessions: Sessions, *, database_url: str, embedder: EmbedderModel | None = None
    ) -> None:
        self._registry = Registry(sessions)
        self._database_url = database_url
        self._embedder = embedder or packaged_embedder()
        self._semaphore = asyncio.Semaphore(MAX_CONCURRENT)

    async def compare(self, first: UUID, second: UUID) -> VersionComparison:
        """Compare two versions. NotFound; Conflict if they are of different models.

        Unavailable if this comparison, or the one before it, takes too long.
        """
        versions = await self._registry.show(first), await self._registry.show(second)
        if versions[0].model_hash != versions[1].model_hash:
            raise Conflict("the two versions were trained for different models")
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._semaphore.acquire()
        except TimeoutError as error:
            raise Unavailable("another comparison is running; try again when it is done") from error
        try:
            result = await self._run_process(first, second)
        finally:
            self._semaphore.release()
        cards = (result.cards[0], result.cards[1]) if result.cards else None
        return VersionComparison(versions, result.rows, result.unseen, cards, result.error)

    async def _run_process(self, first: UUID, second: UUID) -> ProcessResult:
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, str(first), str(second), "--embedder", self._embedder.folder),
            stdin=DEVNULL,
            stdout=PIPE,
            start_new_session=True,  # Ctrl-C is the gateway's to handle
            env=child_environment() | {"DATABASE_URL": self._database_url},
        )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                stdout, _ = await process.communicate()
            return msgspec.json.decode(stdout, type=ProcessResult)
        except (TimeoutError, msgspec.DecodeError) as error:
            raise Unavailable(
                "the comparison did not finish; the gateway's log has the reason"
            ) from error
        finally:
            with suppress(ProcessLookupError):
                process.kill()
