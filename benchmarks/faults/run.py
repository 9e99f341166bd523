"""R1-faults: the parts of a gateway, and its database server, are killed and stopped under load."""

import asyncio
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from random import Random
from statistics import median
from typing import Final

import httpx

from benchmarks.faults.clients import KINDS as REQUESTS
from benchmarks.faults.clients import Answer, Clients, bodies
from benchmarks.faults.reconciliation import differing, failures, read_books, reconcile
from benchmarks.faults.schedule import KINDS, OWN_SERVER, Fault, in_order
from benchmarks.faults.server import OwnServer, own_server
from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.live.gateway_process import API_KEY, GatewayProcess
from benchmarks.live.processes import Processes

FIGURE: Final = "R1-faults"
DATABASES: Final = ("embedded", "own")
ROUNDS: Final = 3
SEED: Final = 7
PER_S: Final = 3.0  # requests
QUIET_S: Final = 8.0  # between the end of a fault and the next
STORM: Final = 200  # clients at once, of which as many again leave
SILENCE_S: Final = 5.0
DISK: Final = "600m"  # of the data folder's file system
FULL_S: Final = 15.0
WELL_S: Final = 180.0  # until everything is well again
HEALTH_S: Final = 0.1


def run(rounds: int, seed: int, databases: Sequence[str] = DATABASES) -> None:
    """Run `rounds` faults of each kind, in an order that the seed draws, with each database."""
    report = Report(FIGURE, (rounds, seed, tuple(databases)) != (ROUNDS, SEED, DATABASES))
    rows: list[Row] = []
    for database in databases:
        rows += (_with_embedded if database == "embedded" else _with_own_server)(
            report, rounds, seed
        )
        report.write(rows, targets(rows))
    report.conclude(rows, targets(rows))


def _with_embedded(report: Report, rounds: int, seed: int) -> list[Row]:
    """The rows of a gateway with its embedded database."""
    with _disk() as folder, _gateway(folder) as gateway:
        course = _Course(report, gateway, seed, full_disk=folder)
        order = in_order(KINDS, rounds, seed, disk=folder is not None)
        return _rows("embedded", course, order, gateway.database_url)


def _with_own_server(report: Report, rounds: int, seed: int) -> list[Row]:
    """The rows of a gateway with a database server of the operator's own."""
    with own_server() as server, _gateway(None, database_url=server.url) as gateway:
        course = _Course(report, gateway, seed, server=server)
        return _rows("own server", course, in_order(OWN_SERVER, rounds, seed), server.url)


def _rows(database: str, course: "_Course", order: Sequence[str], url: str) -> list[Row]:
    """The rows of one course: of its answers, reconciled with the books, and of its faults."""
    right, answers = asyncio.run(course.run(order))
    done = [answer.id for answer in answers if answer.complete and answer.id]
    reconciled = reconcile(answers, course.kinds, asyncio.run(read_books(url, done)))
    whole: Row = {
        "database": database,
        **answers_row(answers, course.gateway_kills),
        "differing": differing(answers, right),
        "lost": reconciled.lost,
        "doubled": reconciled.doubled,
        "tokens_off": reconciled.tokens_off,
    }
    return [whole, *fault_rows(database, course.faults)]


class _Course:
    """The load, and the faults under it."""

    def __init__(
        self,
        report: Report,
        gateway: GatewayProcess,
        seed: int,
        *,
        full_disk: Path | None = None,
        server: OwnServer | None = None,
    ) -> None:
        self.faults: list[Fault] = []
        self.gateway_kills: list[tuple[float, float]] = []  # from the kill to its next start
        self._report = report
        self._gateway = gateway
        self._processes = Processes(gateway)
        self._random = Random(seed)
        self.kinds = bodies(seed)
        self._clients = Clients(gateway.url, API_KEY, self.kinds)
        self._disk = full_disk
        self._server = server

    async def run(self, order: Sequence[str]) -> tuple[dict[int, tuple[str, ...]], list[Answer]]:
        """The right texts by kind of request, and what clients got while the faults came."""
        right = {}
        for number in range(REQUESTS):
            right[number] = (await self._clients.ask(number)).texts
        self._clients.answers.clear()
        began_s = time.monotonic()
        load = asyncio.create_task(self._load())
        try:
            for kind in order:
                await asyncio.sleep(QUIET_S)
                at_s = time.monotonic()
                await self._cause(kind)
                await asyncio.to_thread(self._wait_until_well)
                fault = Fault(kind, at_s - began_s, time.monotonic() - at_s)
                self.faults.append(fault)
                failed = sum(not answer.complete for answer in self._clients.answers)
                self._report.say(
                    f"{kind}: well again after {fault.recovered_s:.1f} s; "
                    f"{len(self._clients.answers)} requests, {failed} failed"
                )
            await asyncio.sleep(QUIET_S)
        finally:
            load.cancel()
            await load
            await self._clients.close()
        return right, self._clients.answers

    async def _load(self) -> None:
        """Requests at random times (Poisson); all are waited for at the end."""
        async with asyncio.TaskGroup() as requests:
            try:
                while True:
                    await asyncio.sleep(self._random.expovariate(PER_S))
                    requests.create_task(self._clients.ask(self._random.randrange(REQUESTS)))
            except asyncio.CancelledError:
                pass  # no more requests; the group waits for those that run

    async def _cause(self, kind: str) -> None:
        """Do it; returns once another process runs, the disk has space, or the storm is over."""
        how, _, part = kind.partition(" ")
        match how, part:
            case "kill", "gateway":
                began_s = time.monotonic()
                await asyncio.to_thread(self._processes.kill, part)
                self.gateway_kills.append((began_s, time.monotonic()))
            case "kill" | "stop" | "restart", "server":
                assert self._server is not None
                fault = {
                    "kill": self._server.kill,
                    "stop": self._server.suspend,
                    "restart": self._server.restart,
                }[how]
                await asyncio.to_thread(fault)
            case "kill", _:
                await asyncio.to_thread(self._processes.kill, part)
            case "stop", _:
                await asyncio.to_thread(self._processes.suspend, part)
            case "disk", _:
                assert self._disk is not None
                await asyncio.to_thread(_fill, self._disk)
            case _:
                drawn = [self._random.randrange(REQUESTS) for _ in range(STORM)]
                asked = (self._clients.ask(each) for each in drawn)
                left = (self._clients.leave(each) for each in drawn)
                await asyncio.gather(*asked, *left)

    def _wait_until_well(self) -> None:
        """Returns once readiness says yes, and every part answers. RuntimeError after a timeout."""
        end_s = time.monotonic() + WELL_S
        while True:
            try:
                health = httpx.get(f"{self._gateway.url}/health/ready", timeout=WELL_S).json()
            except httpx.HTTPError:
                health = {"status": "no answer"}
            parts = (health.get(name) for name in ("engine", "predictor", "database"))
            if health["status"] == "ready" and set(parts) == {"connected"}:
                return
            if time.monotonic() > end_s:
                raise RuntimeError(f"not well again after {WELL_S:.0f} s: {health}")
            time.sleep(HEALTH_S)


def answers_row(answers: Sequence[Answer], kills: Sequence[tuple[float, float]]) -> Row:
    """How many requests failed, and how many of them while the gateway itself was killed."""
    by_gateway = [
        answer
        for answer in answers
        if not answer.complete
        and any(answer.began_s <= end_s and answer.ended_s >= at_s for at_s, end_s in kills)
    ]
    failed = [answer for answer in answers if not answer.complete]
    return {
        "requests": len(answers),
        "failed": len(failed) - len(by_gateway),
        "cut_by_gateway_kill": len(by_gateway),
        "reasons": ", ".join(f"{why}: {n}" for why, n in failures(answers).most_common()),
        "longest_s": max(answer.ended_s - answer.began_s for answer in answers),
    }


def fault_rows(database: str, faults: Sequence[Fault]) -> list[Row]:
    """The seconds until everything was well again, by kind."""
    ordered = sorted(faults, key=lambda fault: fault.kind)
    rows: list[Row] = []
    for kind, found in groupby(ordered, key=lambda fault: fault.kind):
        times = [fault.recovered_s for fault in found]
        rows.append(
            {
                "database": database,
                "fault": kind,
                "times": len(times),
                "well_again_median_s": median(times),
                "well_again_longest_s": max(times),
            }
        )
    return rows


def targets(rows: Sequence[Row]) -> list[Target]:
    """No request fails by a fault of a part, and the books are right, with each database."""
    names = {
        "failed": "requests failed, but for those cut by a kill of the gateway",
        "differing": "answers that differ from the quiet gateway's",
        "lost": "answers without their records",
        "doubled": "answers with too many records",
        "tokens_off": "tokens that usage and history differ by",
    }
    whole = [row for row in rows if "requests" in row]
    return [
        target(name, sum(row[key] for row in whole), 0, "at most") for key, name in names.items()
    ]


@contextmanager
def _disk() -> Iterator[Path | None]:
    """A small file system for the data folder; None if this user may not make one."""
    if os.geteuid() != 0:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="lmaas-disk-") as name:
        folder = Path(name)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", name]
        subprocess.run(mount, check=True)
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", name], check=True)


def _gateway(folder: Path | None, **more: object) -> GatewayProcess:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings: dict[str, object] = {
        "port": port,
        "engine_threads": 1,
        "max_engine_silence_s": SILENCE_S,
        **more,
    }
    if folder is not None:
        settings["data_dir"] = folder / "data"
    return GatewayProcess(FIGURE, **settings)


def _fill(folder: Path) -> None:
    """Fill the file system to its last byte for a while."""
    file = folder / "full"
    try:
        with file.open("wb") as content:
            try:
                while True:
                    content.write(bytes(1 << 20))
            except OSError:
                pass  # full
        time.sleep(FULL_S)
    finally:
        file.unlink()
