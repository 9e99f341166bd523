"""R1: how late `/health/live` is answered while a client is hostile."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import numpy as np
from msgspec import Struct

from benchmarks.harness.paths import ROOT
from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.harness.retry import Measured, quietest
from benchmarks.live.gateway_process import ADMIN_KEY, API_KEY, GatewayProcess
from benchmarks.r1.hostile_clients import CLIENTS
from benchmarks.r1.liveness import Liveness
from gateway.quantiles import Floats

PARTS: Final = ("liveness",)
ALONE: Final = "none"  # the row without a hostile client
ALONE_S: Final = 8.0
SETTLE_S: Final = 1.0  # before and after a client, measured as well
CLIENT_TIMEOUT_S: Final = 120.0
IDLE_TIMEOUT_S: Final = 300.0
NICE: Final = 10  # of a client: one on another machine takes no time from the gateway
MAX_P99_MS: Final = 100.0
MAX_MS: Final = 300.0


class Attack(Struct, frozen=True):
    """Latencies of `/health/live` (n,) during one client's run, and what the client reports."""

    latencies_ms: Floats
    failures: int
    client_got: str


def run(clients: Sequence[str], scripts: Path | None, settings: dict[str, object]) -> None:
    """Run each client, and each `c*.py` of a folder, against one gateway."""
    commands = {name: _own(name) for name in clients}
    if scripts is not None:
        commands |= {path.stem: [str(path)] for path in sorted(scripts.glob("c*.py"))}
    report = Report("R1", set(clients) != set(CLIENTS) or scripts is not None)
    rows: list[Row] = []
    with GatewayProcess("r1", **settings) as gateway:
        for name, command in {ALONE: list[str](), **commands}.items():
            measured = quietest(
                partial(_attack, gateway, command),
                partial(_report_progress, report, name),
                gateway.meter,
            )
            rows.append(row_of(name, measured))
            report.write(rows, targets(rows))
    report.conclude(rows, targets(rows))


def targets(rows: Iterable[Row]) -> list[Target]:
    """The verdicts on the worst of all clients."""
    found = [row for row in rows if row["client"] != ALONE]
    p99_ms = max((row["p99_ms"] for row in found), default=None)
    max_ms = max((row["max_ms"] for row in found), default=None)
    failed = sum(row["failed"] for row in found) if found else None
    name = "/health/live, the worst client"
    return [
        target(f"{name}: p99 ms", p99_ms, MAX_P99_MS, "at most"),
        target(f"{name}: longest ms", max_ms, MAX_MS, "at most"),
        target("/health/live: not answered with 200", failed, 0, "at most"),
    ]


def row_of(name: str, measured: Measured[Attack]) -> Row:
    """Percentiles of the latency in milliseconds, and what the client got."""
    attack = measured.outcome
    return {
        "client": name,
        "asked": len(attack.latencies_ms),
        "failed": attack.failures,
        "p50_ms": float(np.median(attack.latencies_ms)),
        "p99_ms": float(np.quantile(attack.latencies_ms, 0.99)),
        "max_ms": float(attack.latencies_ms.max()),
        "foreign": measured.load.foreign,
        "client_got": attack.client_got,
    }


def _own(name: str) -> list[str]:
    return ["-m", "benchmarks.r1.hostile_clients", name]


def _attack(gateway: GatewayProcess, command: list[str]) -> Attack:
    _wait_until_idle(gateway.url)
    with Liveness(gateway.url) as liveness:
        time.sleep(SETTLE_S)
        outcome = _run_client(gateway.url, command) if command else _alone()
        time.sleep(SETTLE_S)
    return Attack(liveness.latencies_ms, liveness.failures, outcome)


def _alone() -> str:
    time.sleep(ALONE_S)
    return ""


def _run_client(url: str, command: list[str]) -> str:
    """Run a client to its end; its last line of output, with statuses as text."""
    given = {"BASE_URL": f"{url}/v1", "KEY": API_KEY, "ADMIN_KEY": ADMIN_KEY}
    ended = subprocess.run(
        ["nice", "-n", str(NICE), sys.executable, *command],
        cwd=ROOT,
        env=os.environ | given,
        capture_output=True,
        text=True,
        timeout=CLIENT_TIMEOUT_S,
        check=False,
    )
    lines = (ended.stdout if ended.stdout.strip() else ended.stderr).strip().splitlines()
    last = lines[-1] if lines else ""
    if not last.startswith("{"):
        return last.partition(":")[0][:60]
    statuses = json.loads(last)
    return ", ".join(f"{each}: {statuses[each]}" for each in sorted(statuses))


def _wait_until_idle(url: str) -> None:
    """Return when no request waits or runs. RuntimeError after a timeout."""
    end = time.monotonic() + IDLE_TIMEOUT_S
    while True:
        health = httpx.get(f"{url}/health/ready", timeout=IDLE_TIMEOUT_S).json()
        if not health["waiting"] and not health["running"]:
            return
        if time.monotonic() > end:
            raise RuntimeError(f"the gateway is still busy: {health}")
        time.sleep(0.1)


def _report_progress(report: Report, name: str, measured: Measured[Attack]) -> None:
    row = row_of(name, measured)
    report.say(
        f"{name}: {row['p50_ms']:.1f} ms p50, {row['p99_ms']:.1f} p99, {row['max_ms']:.1f} max, "
        f"{row['failed']} failed; the client got {row['client_got'] or 'nothing'}; {measured}"
    )
