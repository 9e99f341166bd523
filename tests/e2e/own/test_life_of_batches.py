"""Batches whose processes are killed: each line has one answer and one record."""

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import psycopg
import pytest
from openai.types import Batch

from benchmarks.faults.server import PostgresProcesses
from tests.conftest import PATIENCE_S
from tests.hanging_postgres import HangingPostgres

Asked = Callable[..., dict[str, Any]]
LINES = 120
VALUES = ("king", "brave king", "river stone", "stone")
LONG = {"max_tokens": 60, "logit_bias": {"4": -100}}  # the end token is banned
SHORT = {"max_tokens": 1}
RECORDS = (
    "SELECT count(*), count(DISTINCT request.id) FROM requests request "
    "JOIN tenants tenant ON tenant.id = request.tenant_id WHERE tenant.name = %s"
)


async def test_killed_parts_lose_and_double_no_line(own: Any, asked: Asked) -> None:
    gateway = await own.running()
    tenant, key = await gateway.tenant("killed with a batch")
    async with gateway.client(key) as client:
        batch = await until_completed(client, await submitted(client, asked), 1)
        gateway.engine().kill()
        batch = await until_completed(client, batch, LINES // 4)
        PostgresProcesses(gateway.data_dir).kill()
        batch = await until_completed(client, batch, LINES // 2)
        engine = gateway.engine()
        engine.suspend()  # so that the gateway is killed while lines are in the engine
        second = await submitted(client.with_options(max_retries=10), asked)
        async with asyncio.timeout(PATIENCE_S):
            while not (await gateway.health())["running"]:
                await asyncio.sleep(0.02)
    gateway.process.kill()
    gateway.process.wait()
    engine.kill()

    again = await own.running()
    async with again.client(key) as client:
        for each in (batch, second):
            await check_answers(client, await until_completed(client, each, LINES))
    async with asyncio.timeout(PATIENCE_S):
        while await again.history(tenant) < 2 * LINES:
            await asyncio.sleep(0.1)
    assert await again.history(tenant) == 2 * LINES


async def test_a_batch_of_two_gateways_survives_a_killed_postgres(
    serve: Any, external: HangingPostgres, asked: Asked
) -> None:
    few = {"DATABASE_URL": external.url, "LMAAS_KV_TOKENS": "2048"}  # lines for both
    one = await serve("one", **few).ready()  # it migrates, and makes the key
    other = await serve("other", **few).ready()
    _, key = await one.tenant("shared")
    async with other.client(key) as client:
        batch = await until_completed(client, await submitted(client, asked), LINES // 4)
        assert counts(batch) < LINES
        external.kill()
        await asyncio.to_thread(external.recover)
        batch = await until_completed(client, batch, LINES)
        await check_answers(client, batch)
    async with asyncio.timeout(PATIENCE_S):
        while (found := records(external.url, "shared"))[0] < LINES:
            await asyncio.sleep(0.1)
    assert found == (LINES, LINES), "lines and requests in history"
    assert await one.stop() == 0, one.errors.read_text()
    assert await other.stop() == 0, other.errors.read_text()


@pytest.fixture
def external() -> Iterator[HangingPostgres]:
    """A server that is no gateway's own."""
    with (
        tempfile.TemporaryDirectory(prefix="lmaas-external-") as folder,
        HangingPostgres(Path(folder)) as server,
    ):
        yield server


async def submitted(client: openai.AsyncOpenAI, asked: Asked) -> Batch:
    """A batch whose first line ends early."""
    lines = [
        asked("spell", f"{VALUES[n % 4]} {VALUES[n % 3]}", **(LONG if n else SHORT))
        for n in range(LINES)
    ]
    url = "/v1/chat/completions"
    content = "\n".join(
        json.dumps({"custom_id": f"line {n}", "method": "POST", "url": url, "body": body})
        for n, body in enumerate(lines)
    )
    file = await client.files.create(file=("lines.jsonl", content.encode()), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="1h"
    )


async def until_completed(client: openai.AsyncOpenAI, batch: Batch, lines: int) -> Batch:
    """The batch, when that many of its lines are completed; if all are, when it has ended."""
    async with asyncio.timeout(PATIENCE_S):
        while counts(batch) < lines or (lines == LINES and batch.status != "completed"):
            assert batch.status in ("validating", "in_progress", "finalizing")
            await asyncio.sleep(0.02)
            try:
                batch = await client.batches.retrieve(batch.id)
            except openai.InternalServerError as error:
                if error.code != "database_unavailable":
                    raise
    return batch


async def check_answers(client: openai.AsyncOpenAI, batch: Batch) -> None:
    """Each line is in the output file once."""
    assert batch.output_file_id
    output = await client.files.content(batch.output_file_id)
    names = Counter(json.loads(line)["custom_id"] for line in output.text.splitlines())
    assert names == Counter(f"line {n}" for n in range(LINES))
    assert counts(batch) == LINES
    assert batch.error_file_id is None


def counts(batch: Batch) -> int:
    """The completed lines."""
    return batch.request_counts.completed if batch.request_counts else 0


def records(url: str, tenant: str) -> tuple[int, int]:
    """A tenant's records, and how many requests these are of."""
    with psycopg.connect(url) as connection:
        row = connection.execute(RECORDS, [tenant]).fetchone()
    assert row
    return row[0], row[1]
