"""Runs `lmaas replay` on a window of history, one at a time, and keeps the newest results.

The simulation needs a core for seconds to minutes: it runs in a process of its own, which has a
bounded number of requests and a bounded time, and ends with the gateway.
"""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

import msgspec
import structlog
from msgspec import Struct

from gateway.child_process import child_environment
from gateway.errors import Conflict, NotFound

KEPT: Final = 5
MAX_REQUESTS: Final = 20_000
MAX_RUN_S: Final = 900.0
MAX_LINES: Final = 12
MAX_LINE: Final = 300  # characters
MAX_OUTPUT: Final = 4 << 20  # bytes
ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

State: TypeAlias = Literal["running", "succeeded", "failed", "cancelled"]

log = structlog.get_logger()


class ReplayOptions(Struct, frozen=True, kw_only=True):
    """What is replayed: the window before now, and under what. `speed` divides the gaps."""

    hours: float
    policies: tuple[str, ...]
    engines: int = 1
    speed: float = 1.0


class ReplayRun(Struct, eq=False, kw_only=True):
    """A run: its state, its newest lines of progress, and the result of `lmaas replay --json`."""

    number: int
    options: ReplayOptions
    by: str
    began_at: datetime
    state: State = "running"
    ended_at: datetime | None = None
    lines: deque[str] = msgspec.field(default_factory=lambda: deque(maxlen=MAX_LINES))
    result: dict[str, Any] | None = None


class ReplayRuns:
    """The replays of one gateway."""

    def __init__(self, model: str, database_url: str) -> None:
        self._model = model
        self._database_url = database_url
        self._runs: deque[ReplayRun] = deque(maxlen=KEPT)
        self._number = 0
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None

    def newest_first(self) -> list[ReplayRun]:
        """The kept runs."""
        return [*reversed(self._runs)]

    def find(self, number: int) -> ReplayRun:
        """A kept run. NotFound."""
        found = next((run for run in self._runs if run.number == number), None)
        if found is None:
            raise NotFound(f"there is no replay {number} any more", param="number")
        return found

    def start(self, options: ReplayOptions, by: str) -> ReplayRun:
        """Start a run. Conflict while another one runs."""
        if self._task is not None and not self._task.done():
            raise Conflict("another replay is running; cancel it, or try again when it is done")
        self._number += 1
        run = ReplayRun(number=self._number, options=options, by=by, began_at=datetime.now(UTC))
        self._runs.append(run)
        self._task = asyncio.create_task(self._execute(run), name="replay")
        return run

    def cancel(self, number: int) -> ReplayRun:
        """Stop a run; one that has ended stays as it is. NotFound."""
        run = self.find(number)
        if run.state == "running":
            run.state = "cancelled"
            self._kill()
        return run

    async def close(self) -> None:
        """Stop what runs."""
        if self._task is not None:
            self._kill()
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _execute(self, run: ReplayRun) -> None:
        try:
            output, code = await self._replayed(run)
            if run.state == "running":
                run.result = msgspec.json.decode(output) if code == 0 else None
                run.state = "succeeded" if code == 0 else "failed"
        except (TimeoutError, OSError, msgspec.DecodeError) as error:
            run.state = "failed"
            late = isinstance(error, TimeoutError)
            run.lines.append(f"it took longer than {MAX_RUN_S:.0f} s" if late else str(error))
        finally:
            self._kill()
            self._process = None
            run.ended_at = datetime.now(UTC)
            log.info("replay_ended", number=run.number, state=run.state, by=run.by)

    async def _replayed(self, run: ReplayRun) -> tuple[bytes, int]:
        """The output and the exit status; progress goes to the run's lines."""
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command(run),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,  # Ctrl-C is the gateway's to handle
            env=child_environment() | ONE_THREAD | {"DATABASE_URL": self._database_url},
        )
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.timeout(MAX_RUN_S):
            output, _ = await asyncio.gather(
                process.stdout.read(MAX_OUTPUT), _follow(process.stderr, run)
            )
            return output, await process.wait()

    def _command(self, run: ReplayRun) -> list[str]:
        wanted, since = run.options, run.began_at - timedelta(hours=run.options.hours)
        speed = [] if wanted.speed == 1 else ["--speed", f"{wanted.speed:g}"]
        policies = [each for name in wanted.policies for each in ("--policy", name)]
        return [
            *(sys.executable, "-m", "gateway", "replay", "--history", "--json", "-"),
            *("--from", since.isoformat(), "--to", run.began_at.isoformat()),
            *("--model", self._model, "--requests", str(MAX_REQUESTS)),
            *("--engines", str(wanted.engines), *speed, *policies),
        ]

    def _kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()


async def _follow(stream: asyncio.StreamReader, run: ReplayRun) -> None:
    """Keep the newest lines."""
    while True:
        try:
            line = await stream.readline()
        except ValueError:  # a line beyond the stream's limit
            continue
        if not line:
            return
        run.lines.append(line.decode(errors="replace").strip()[:MAX_LINE])
