"""The whole gateway while its Postgres hangs, and when it is killed."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from openai.types import Batch

from benchmarks.faults.server import PostgresProcesses
from gateway.database.errors import CONNECTION_S
from gateway.files.upload import DISCARD_S
from gateway.tenancy.authentication import KNOWN_KEY_WAIT_S, UNKNOWN_KEY_WAIT_S
from tests.conftest import PATIENCE_S

Asked = Callable[..., dict[str, Any]]
KEY_CACHE_S = 3.0
MAX_SPOOL_BYTES = 1 << 20
MARGIN_S = 10.0  # for a busy machine; a query that hangs takes for ever
CHAT = "/v1/chat/completions"
FORM = {"data": {"purpose": "batch"}, "files": {"file": ("lines.jsonl", b"{}")}}


async def test_known_keys_are_served_and_everything_else_is_refused_in_time(
    serve: Any, asked: Asked
) -> None:
    gateway = await serve(
        "hang",
        LMAAS_KEY_LOOKUP_S=str(UNKNOWN_KEY_WAIT_S),
        LMAAS_KEY_CACHE_S=str(KEY_CACHE_S),
        LMAAS_MAX_SPOOL_BYTES=str(MAX_SPOOL_BYTES),
    ).ready()
    postgres = PostgresProcesses(gateway.data_dir)
    tenant, unused = await gateway.tenant("away")
    _, used = await gateway.tenant("here")
    async with gateway.client(used) as client, gateway.admin() as admin:
        await until_known(client.models.list)
        batch = await completed_batch(client, asked)
        known_until = time.monotonic() + KEY_CACHE_S

        postgres.suspend()
        try:
            *_, lost = await asyncio.gather(
                assert_jobs_are_refused(gateway, used, batch),
                refused(gateway, unused),
                refused(gateway, "a guess"),
                timed(admin.get("/admin/tenants"), CONNECTION_S),
            )
            assert (lost.status_code, code(lost)) == (503, "database_unavailable")
            assert lost.headers["retry-after"]
            assert (await admin.get("/admin/queue")).status_code == 200
            while time.monotonic() < known_until:  # the key's entry in the cache expires
                await asyncio.sleep(0.2)
            for _ in range(5):
                await timed(client.models.list(), KNOWN_KEY_WAIT_S)
            answer = await client.chat.completions.create(**asked("translate", "brave king"))
            assert answer.choices[0].message.content
            await assert_full_history_refuses(gateway, client, asked)
        finally:
            postgres.resume()

        async with gateway.client(unused) as other:
            await until_known(other.models.list)
            await until_history_has_room(gateway)
            await other.chat.completions.create(**asked("translate", "brave king"))
        async with asyncio.timeout(PATIENCE_S):
            while not await gateway.history(tenant):
                await asyncio.sleep(0.1)
        await assert_nothing_was_done(client, batch)

        postgres.kill()
        await timed(client.models.list(), KNOWN_KEY_WAIT_S)
        await until_looked_up(gateway, "another guess")
    assert await gateway.stop() == 0, gateway.errors.read_text()


async def assert_full_history_refuses(
    gateway: Any, client: openai.AsyncOpenAI, asked: Asked
) -> None:
    """As much waits for the database as may: requests are refused, and readiness says no."""
    spool = gateway.data_dir / "spool"
    kept = b"".join(path.read_bytes() for path in spool.glob("*.jsonl"))
    (spool / "0.jsonl").write_bytes(kept * (MAX_SPOOL_BYTES // len(kept) + 1))
    async with asyncio.timeout(PATIENCE_S), gateway.stranger() as stranger:
        while (health := (await stranger.get("/health/ready")).json())["history"] != "full":
            await asyncio.sleep(0.1)
        assert (health["status"], health["reason"]) == ("unavailable", "history: full")
        metrics = (await stranger.get("/metrics")).text
        assert 'lmaas_part_up{part="history"} 0.0' in metrics
    with pytest.raises(openai.InternalServerError) as refused:
        await client.with_options(max_retries=0).chat.completions.create(
            **asked("translate", "brave king")
        )
    assert (refused.value.status_code, refused.value.code) == (503, "history_full")
    assert refused.value.response.headers["retry-after"] == "10"


async def until_history_has_room(gateway: Any) -> None:
    """Return once the database has so much of the history that requests are accepted again."""
    async with asyncio.timeout(PATIENCE_S), gateway.stranger() as stranger:
        while (await stranger.get("/health/ready")).json()["history"] == "full":
            await asyncio.sleep(0.1)


async def completed_batch(client: openai.AsyncOpenAI, asked: Asked) -> Batch:
    """A batch of one line that has ended."""
    body = asked("translate", "brave king")
    line = {"custom_id": "a", "method": "POST", "url": CHAT, "body": body}
    file = await client.files.create(file=("l", json.dumps(line).encode()), purpose="batch")
    batch = await client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="1h"
    )
    async with asyncio.timeout(PATIENCE_S):
        while batch.status != "completed":
            await asyncio.sleep(0.1)
            batch = await client.batches.retrieve(batch.id)
    return batch


async def assert_jobs_are_refused(gateway: Any, key: str, batch: Batch) -> None:
    """Every route of files and batches gets 503 in OpenAI's shape, in time."""
    file, shown = f"/v1/files/{batch.input_file_id}", f"/v1/batches/{batch.id}"
    new = {"input_file_id": batch.input_file_id, "endpoint": CHAT, "completion_window": "1h"}
    routes: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/files", FORM),
        ("GET", "/v1/files", {}),
        ("GET", file, {}),
        ("GET", f"{file}/content", {}),
        ("DELETE", file, {}),
        ("POST", "/v1/batches", {"json": new}),
        ("GET", "/v1/batches", {}),
        ("GET", shown, {}),
        ("POST", f"{shown}/cancel", {}),
    ]
    limit_s = KNOWN_KEY_WAIT_S + CONNECTION_S + DISCARD_S
    async with gateway._bearing(key) as caller:
        answers = await asyncio.gather(
            *(timed(caller.request(*route, **body), limit_s) for *route, body in routes)
        )
    for (method, path, _), answer in zip(routes, answers, strict=True):
        error = answer.json()["error"]
        assert answer.status_code == 503, (method, path, answer.text)
        assert (error["code"], error["type"]) == ("database_unavailable", "server_error")
        assert "database" in error["message"]
        assert int(answer.headers["retry-after"]) >= 1


async def assert_nothing_was_done(client: openai.AsyncOpenAI, batch: Batch) -> None:
    """No file or batch came or went, and the batch is as it was."""
    assert [each async for each in client.batches.list()] == [batch]
    files = {each.id async for each in client.files.list()}
    assert files == {batch.input_file_id, batch.output_file_id}


async def timed(asking: Any, limit_s: float) -> Any:
    """What a request returns, and that it took no longer than its limit."""
    began = time.monotonic()
    answer = await asking
    assert time.monotonic() - began < limit_s + MARGIN_S
    return answer


async def refused(gateway: Any, key: str) -> None:
    """A key that is not in the gateway's memory gets 503, in time."""
    async with gateway._bearing(key) as caller:
        answer = await timed(caller.get("/v1/models"), UNKNOWN_KEY_WAIT_S)
    assert (answer.status_code, code(answer)) == (503, "database_unavailable"), answer.text
    assert answer.headers["retry-after"]


async def until_looked_up(gateway: Any, key: str) -> None:
    """Return once an unknown key gets 401: the gateway has started its Postgres again."""
    async with asyncio.timeout(PATIENCE_S), gateway._bearing(key) as caller:
        while (answer := await timed(caller.get("/v1/models"), UNKNOWN_KEY_WAIT_S)).is_server_error:
            assert (answer.status_code, code(answer)) == (503, "database_unavailable")
    assert answer.status_code == 401


async def until_known(ask: Callable[[], Any]) -> None:
    """Return once the key has been looked up: a busy machine's database may need longer."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await ask()
            except openai.InternalServerError:
                continue
            return


def code(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])
