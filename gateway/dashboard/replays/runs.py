"""Runs `lmaas replay` on a window of history, one run at a time, and keeps the newest results.

The simulation needs a core for seconds to minutes: it runs in a process of its own, which has a
bounded number of requests and a bounded time, and ends with the gateway. A run on several numbers
of engines is a process for each, one after the other.
"""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
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
MAX_PART: Final = 64 << 10
ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

ONE_QUEUE: Final = "predicted-finish"  # the router that this gateway has

State: TypeAlias = Literal["running", "succeeded", "failed", "cancelled"]
Speeds: TypeAlias = tuple[float, ...]

log = structlog.get_logger()


class ReplayOptions(Struct, frozen=True, kw_only=True):
    """What is replayed, and under what: requests that arrived from `since` until before `until`.

    Each item of `engines` is replayed: the speed of every engine, relative to the one that served.
    `router` brings requests to several engines. `speed` divides the gaps between arrivals.
    """

    since: datetime
    until: datetime
    policies: tuple[str, ...]
    engines: tuple[Speeds, ...] = ((1.0,),)
    router: str = ONE_QUEUE
    speed: float = 1.0


class ReplayResult(Struct, frozen=True):
    """The result of `lmaas replay --json` on engines of these speeds."""

    engines: Speeds
    summary: dict[str, Any]


class ReplayRun(Struct, eq=False, kw_only=True):
    """A run: its state, its newest lines of progress, and its results so far.

    `finished` of `total` simulations have ended: one for each policy and number of engines.
    """

    number: int
    options: ReplayOptions
    by: str
    began_at: datetime
    state: State = "running"
    ended_at: datetime | None = None
    finished: int = 0
    lines: deque[str] = msgspec.field(default_factory=lambda: deque(maxlen=MAX_LINES))
    results: list[ReplayResult] = msgspec.field(default_factory=list)

    @property
    def total(self) -> int:
        """The number of simulations."""
        return len(self.options.policies) * len(self.options.engines)

    def note(self, line: str) -> None:
        """Keep a line of progress; a policy that was simulated has its name and measures in one."""
        self.lines.append(line[:MAX_LINE])
        policy = line.partition(", seed ")[0]
        if policy != line and policy in self.options.policies:
            self.finished = min(self.finished + 1, self.total)


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
        code = 0
        try:
            async with asyncio.timeout(MAX_RUN_S):
                for engines in run.options.engines:
                    output, code = await self._replayed(run, engines)
                    if run.state != "running" or code:
                        break
                    run.results.append(ReplayResult(engines, msgspec.json.decode(output)))
            if run.state == "running":
                run.state = "failed" if code else "succeeded"
        except (TimeoutError, OSError, msgspec.DecodeError) as error:
            run.state = "failed"
            late = isinstance(error, TimeoutError)
            run.lines.append(f"it took longer than {MAX_RUN_S:.0f} s" if late else str(error))
        finally:
            self._kill()
            self._process = None
            run.ended_at = datetime.now(UTC)
            log.info("replay_ended", number=run.number, state=run.state, by=run.by)

    async def _replayed(self, run: ReplayRun, engines: Speeds) -> tuple[bytes, int]:
        """The output and the exit status; progress goes to the run."""
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command(run.options, engines),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,  # Ctrl-C is the gateway's to handle
            env=child_environment() | ONE_THREAD | {"DATABASE_URL": self._database_url},
        )
        if run.state != "running":  # it was cancelled before there was a process to kill
            self._kill()
        assert process.stdout is not None
        assert process.stderr is not None
        output, _ = await asyncio.gather(_whole(process.stdout), _follow(process.stderr, run))
        return output, await process.wait()

    def _command(self, wanted: ReplayOptions, engines: Speeds) -> list[str]:
        speed = [] if wanted.speed == 1 else ["--speed", f"{wanted.speed:g}"]
        policies = [each for name in wanted.policies for each in ("--policy", name)]
        return [
            *(sys.executable, "-m", "gateway", "replay", "--history", "--json", "-"),
            *("--from", wanted.since.isoformat(), "--to", wanted.until.isoformat()),
            *("--model", self._model, "--requests", str(MAX_REQUESTS)),
            *("--speeds", ",".join(map("{:g}".format, engines)), "--router", wanted.router),
            *(*speed, *policies),
        ]

    def _kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()


async def _whole(stream: asyncio.StreamReader) -> bytes:
    """What a process writes until its end. OSError beyond `MAX_OUTPUT`."""
    output = bytearray()
    while part := await stream.read(MAX_PART):
        output += part
        if len(output) > MAX_OUTPUT:
            raise OSError(f"its result is larger than {MAX_OUTPUT:,} bytes")
    return bytes(output)


async def _follow(stream: asyncio.StreamReader, run: ReplayRun) -> None:
    """Keep the newest lines."""
    while True:
        try:
            line = await stream.readline()
        except ValueError:  # a line beyond the stream's limit
            continue
        if not line:
            return
        run.note(line.decode(errors="replace").strip())
