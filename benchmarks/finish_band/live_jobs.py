"""Jobs of random sizes on a live gateway, one after another, next to interactive requests."""

import asyncio
import json
import math
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from random import Random
from time import monotonic, sleep, time
from typing import Any, Final

import httpx
import psycopg

from benchmarks.finish_band.course import Course, Point
from benchmarks.live.gateway_process import API_KEY, GatewayProcess
from engine.demo.jobs import JOBS, Exchange
from gateway.cli.batch.client import BatchClient

MODEL: Final = "lmaas-demo"
ENDPOINT: Final = "/v1/chat/completions"
WORDS: Final = (50_000, 250_000)  # of a job's answers, log-uniform
PHASE_S: Final = 12.0  # mean of the exponential times with and without interactive requests
RATE: Final = (1.0, 5.0)  # interactive requests a second, while there are any
POLL_S: Final = 0.25
CLIENT_S: Final = 600.0
SEED: Final = 9
PROGRESS: Final = (
    "SELECT status, work, work_done, extract(epoch FROM in_progress_at)::float, "
    "extract(epoch FROM finalizing_at)::float FROM batches WHERE id = %s"
)


def live_courses(jobs: int, say: Callable[[str], None]) -> list[Course]:
    """Run jobs and follow them."""
    rng = Random(SEED)
    courses: list[Course] = []
    with GatewayProcess("finish-band", engine_threads=1) as gateway:
        for number in range(jobs):
            courses.append(asyncio.run(_one(gateway, rng, number)))
            last = courses[-1]
            took_s = last.ended - last.points[0][0]
            say(f"job {number + 1}: {last.work:,.0f} predicted tokens in {took_s:.0f} s")
    return courses


async def _one(gateway: GatewayProcess, rng: Random, number: int) -> Course:
    with tempfile.TemporaryDirectory(prefix="lmaas-lines-") as folder:
        path = Path(folder) / "lines.jsonl"
        await asyncio.to_thread(_write_job, path, rng)
        async with _interactive_requests(gateway.url, Random(number)):
            return await asyncio.to_thread(_follow, gateway, path)


def _follow(gateway: GatewayProcess, path: Path) -> Course:
    with closing(BatchClient(gateway.url, API_KEY)) as client:
        batch = client.create(client.upload(path), ENDPOINT, "24h", {})["id"]
    points: list[Point] = []
    bands: list[tuple[float, float, float]] = []
    with (
        closing(BatchClient(gateway.url, API_KEY)) as client,
        psycopg.connect(gateway.database_url, autocommit=True) as connection,
    ):
        while True:
            row = connection.execute(PROGRESS, [batch.removeprefix("batch_")]).fetchone()
            assert row is not None
            status, work, done, began, ended = row
            if status == "failed":
                raise RuntimeError("no line of the job can run")
            if began is not None and not points:
                points.append((began, 0.0))
            if ended is not None:
                return Course(work, points, ended, bands)
            if points:
                points.append((time(), done))
                band = client.show(batch)["expected_completion"]
                if band is not None:
                    bands.append((points[-1][0], band["p10"], band["p90"]))
            sleep(POLL_S)


def _write_job(path: Path, rng: Random) -> None:
    """A job of one to three kinds of exchanges."""
    kinds = rng.sample(JOBS, rng.randint(1, 3))
    low, high = map(math.log, WORDS)
    left = math.exp(rng.uniform(low, high))
    with path.open("w") as file:
        number = 0
        while left > 0:
            exchange = rng.choice(kinds).draw(rng)
            left -= 1 + len(exchange.answer.split())
            line = {
                "custom_id": str(number),
                "method": "POST",
                "url": ENDPOINT,
                "body": _body(exchange),
            }
            file.write(json.dumps(line) + "\n")
            number += 1


def _body(exchange: Exchange) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": exchange.instruction},
        {"role": "user", "content": exchange.question},
    ]
    return {"model": MODEL, "messages": messages}


@asynccontextmanager
async def _interactive_requests(url: str, rng: Random) -> AsyncIterator[None]:
    """Meanwhile requests arrive at random times, in phases with and without."""
    headers = {"Authorization": f"Bearer {API_KEY}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=CLIENT_S) as client:
        sender = asyncio.create_task(_send(client, rng))
        try:
            yield
        finally:
            sender.cancel()
            with suppress(asyncio.CancelledError):
                await sender


async def _send(client: httpx.AsyncClient, rng: Random) -> None:
    async with asyncio.TaskGroup() as group:
        while True:
            await asyncio.sleep(rng.expovariate(1 / PHASE_S))
            rate = rng.uniform(*RATE)
            end_s = monotonic() + rng.expovariate(1 / PHASE_S)
            while monotonic() < end_s:
                body = _body(rng.choice(JOBS).draw(rng))
                group.create_task(client.post(ENDPOINT, json=body))
                await asyncio.sleep(rng.expovariate(rate))
