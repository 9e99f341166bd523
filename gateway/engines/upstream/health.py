"""Whether a server answers, and what it says of its load."""

import asyncio
import time
from contextlib import suppress
from typing import Final

from gateway.engines.upstream.capabilities import Capabilities
from gateway.engines.upstream.exposition import ServerLoad, read_load
from gateway.engines.upstream.failures import ServerStarting, ServerUnreachable, ServerUnusable
from gateway.engines.upstream.local_model import LocalModel
from gateway.engines.upstream.probe import find_model
from gateway.engines.upstream.server import OK, UpstreamServer

POLL_S: Final = 5.0
AGAIN_S: Final = 1.0  # after a question without an answer
MAX_MISSED: Final = 3  # questions in a row without an answer
UNWELL: Final = range(500, 600)


class ServerHealth:
    """Asks a server at an interval, and at once where a stream has failed."""

    def __init__(
        self, server: UpstreamServer, model: LocalModel, wanted: str | None, can: Capabilities
    ) -> None:
        self._load: ServerLoad | None = None
        self._preemptions = 0
        self._server = server
        self._model = model
        self._wanted = wanted
        self._path = "/metrics" if can.metrics else "/v1/models"
        self._metrics = can.metrics
        self._next_s = 0.0
        self._missed = 0
        self._suspected = asyncio.Event()
        self._with_model = False
        self._waiting: list[asyncio.Future[None]] = []

    def take_preemptions(self) -> int:
        """Preemptions at the server since the last call, as far as it reports them."""
        count, self._preemptions = self._preemptions, 0
        return count

    async def due(self, within_s: float) -> None:
        """Wait for a suspicion, this long at most; after a question without an answer, a while."""
        if self._missed:
            await asyncio.sleep(AGAIN_S)
            self._next_s = 0.0
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._suspected.wait()

    async def confirmed(self, *, with_model: bool = False) -> None:
        """Wait until the server has answered, and names the model. Cancelled if it is lost."""
        self._with_model = self._with_model or with_model
        self._suspected.set()
        confirmed = asyncio.get_running_loop().create_future()
        self._waiting.append(confirmed)
        await confirmed

    async def check(self, *, silent: bool) -> str | None:
        """Ask if that is due; returns why the server is lost, None if it is not.

        `silent`: no stream has had an event for so long that a missing answer says enough.
        """
        now_s = time.monotonic()
        if not self._suspected.is_set() and not silent and now_s < self._next_s:
            return None
        self._suspected.clear()
        self._next_s = now_s + POLL_S
        before = len(self._waiting)  # those who come while the server is asked wait for the next
        try:
            await self._ask()
        except ServerUnusable as error:
            return str(error)
        except ServerStarting as error:
            return f"it starts: {error}"
        except ServerUnreachable as error:
            self._missed += 1
            if error.refused or self._missed >= MAX_MISSED:
                return str(error)
            return None
        self._missed = 0
        waiting, self._waiting = self._waiting[:before], self._waiting[before:]
        for each in waiting:
            if not each.done():
                each.set_result(None)
        return None

    async def _ask(self) -> None:
        if self._with_model:
            self._with_model = False
            try:
                await find_model(self._server, self._model, self._wanted)
            except ServerUnreachable:
                self._with_model = True
                raise
        status, content = await self._server.fetch(self._path)
        if status in UNWELL:
            raise ServerUnreachable(f"{self._path}: status {status}")
        if self._metrics and status == OK:
            before, load = self._load, read_load(content)
            if before is not None and load is not None:
                self._preemptions += max(load.preemptions - before.preemptions, 0)
            self._load = load
