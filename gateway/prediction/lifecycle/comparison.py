"""Two versions side by side: as they were judged, and both on the newest history."""

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
from gateway.prediction.lifecycle.registry import Registry
from gateway.prediction.training.scorecard import Scorecard
from models import Predictor

COMMAND: Final = (sys.executable, "-m", "gateway.prediction.lifecycle.comparison_process")
TIMEOUT_S: Final = 120.0
MAX_CONCURRENT: Final = 1  # each takes a core


class ProcessResult(Struct, frozen=True):
    """What `gateway.prediction.lifecycle.comparison_process` tells."""

    rows: int = 0
    unseen: bool = False
    cards: list[Scorecard] = []
    error: str | None = None


class VersionComparison(Struct, frozen=True):
    """Both versions, and their scorecards on the same newest `rows` of history.

    `unseen`: neither was trained on any of these rows, nor calibrated on them.

    Without scorecards `why_not` tells what hindered: too little history, or a version of an older
    feature version, which cannot be used any more.
    """

    versions: tuple[Predictor, Predictor]
    rows: int
    unseen: bool
    scorecards: tuple[Scorecard, Scorecard] | None
    why_not: str | None


class VersionComparer:
    """Compares versions in a process of its own, one comparison at a time."""

    def __init__(self, sessions: Sessions, *, database_url: str) -> None:
        self._registry = Registry(sessions)
        self._database_url = database_url
        self._gate = asyncio.Semaphore(MAX_CONCURRENT)

    async def compare(self, first: UUID, second: UUID) -> VersionComparison:
        """The two side by side. NotFound; Conflict if they are of different models."""
        versions = await self._registry.show(first), await self._registry.show(second)
        if versions[0].model_hash != versions[1].model_hash:
            raise Conflict("the two versions were made for different models")
        async with self._gate:
            shadowed = await self._shadow(first, second)
        cards = (shadowed.cards[0], shadowed.cards[1]) if shadowed.cards else None
        return VersionComparison(versions, shadowed.rows, shadowed.unseen, cards, shadowed.error)

    async def _shadow(self, first: UUID, second: UUID) -> ProcessResult:
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, str(first), str(second)),
            stdin=DEVNULL,
            stdout=PIPE,
            start_new_session=True,  # Ctrl-C is the gateway's to handle
            env=child_environment() | {"DATABASE_URL": self._database_url},
        )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                told, _ = await process.communicate()
            return msgspec.json.decode(told, type=ProcessResult)
        except (TimeoutError, msgspec.DecodeError) as error:
            raise Unavailable("the comparison did not come to an end; its log says more") from error
        finally:
            with suppress(ProcessLookupError):
                process.kill()
