"""A gateway with two real engine processes, one of which is killed, drained and returns."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from engine.demo.lexicon import VELAN
from gateway.engines.supervisor import EngineSupervisor
from tests.conftest import PATIENCE_S
from tests.engine_metrics import by_engine
from tests.supervised_engine import supervised_engine

Asked = Callable[..., dict[str, Any]]
WORDS = list(VELAN)


class Pair:
    """A gateway and its two engines."""

    def __init__(self, gateway: Any, engines: tuple[EngineSupervisor, EngineSupervisor]) -> None:
        self.gateway = gateway
        self.engines = engines

    async def shown(self) -> list[dict[str, Any]]:
        async with self.gateway.admin() as admin:
            return list((await admin.get("/admin/engine")).json()["engines"])

    async def until(self, condition: Callable[[list[dict[str, Any]]], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition(await self.shown()):
                await asyncio.sleep(0.02)

    async def counted(self, name: str) -> dict[str, float]:
        """A metric's value of each engine."""
        async with self.gateway.stranger() as client:
            text = (await client.get("/metrics")).text
        return by_engine(text, name)

    async def submitted(self) -> dict[str, float]:
        return await self.counted("lmaas_engine_submitted_sequences_total")

    async def command(self, name: str, engine: int) -> None:
        async with self.gateway.admin() as admin:
            answer = await admin.post(f"/admin/engine/{name}", params={"engine": engine})
            answer.raise_for_status()

    def streamed(
        self, requests: list[dict[str, Any]]
    ) -> tuple[asyncio.Future[None], asyncio.Task[list[str]]]:
        """What is done once every answer has begun, and the texts of the answers."""
        waiting, begun = set(range(len(requests))), asyncio.get_running_loop().create_future()

        async def read(client: openai.AsyncOpenAI, number: int) -> str:
            text = ""
            async for chunk in await client.chat.completions.create(
                **requests[number], stream=True
            ):
                text += chunk.choices[0].delta.content or ""
                if text and number in waiting:
                    waiting.remove(number)
                    if not waiting:
                        begun.set_result(None)
            return text

        async def read_all() -> list[str]:
            async with self.gateway.client() as client:
                return await asyncio.gather(*(read(client, n) for n in range(len(requests))))

        return begun, asyncio.create_task(read_all())

    async def texts(self, requests: list[dict[str, Any]]) -> list[str]:
        async with self.gateway.client() as client:
            answers = [client.chat.completions.create(**request) for request in requests]
            return [each.choices[0].message.content for each in await asyncio.gather(*answers)]


@pytest.fixture(scope="module")
async def pair(start_gateway: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    folders = [tmp_path_factory.mktemp("e") for _ in range(2)]
    first, second = (supervised_engine(folder, LMAAS_KV_TOKENS="16384") for folder in folders)
    async with first as one, second as other:
        gateway = start_gateway("pair", LMAAS_ENGINE_SOCKET=f"{one.socket}, {other.socket}")
        yield Pair(await gateway.ready(), (one, other))
        assert await gateway.stop() == 0, gateway.errors.read_text()


def spelled(asked: Asked, count: int, words: int = 6) -> list[dict[str, Any]]:
    """Greedy and seeded requests, by turns."""
    return [
        asked("spell", " ".join(WORDS[number : number + words]))
        | ({"temperature": 1.0, "seed": number} if number % 2 else {})
        for number in range(count)
    ]


def long(asked: Asked, count: int) -> list[dict[str, Any]]:
    """The same, with answers of 200 tokens, which are under way together."""
    options = {"max_tokens": 200, "extra_body": {"ignore_eos": True}}
    return [request | options for request in spelled(asked, count)]


async def test_requests_are_spread_over_both_engines(pair: Pair, asked: Asked) -> None:
    before = await pair.submitted()
    await pair.texts(long(asked, 8))
    after = await pair.submitted()
    assert all(after[number] > before.get(number, 0.0) for number in ("0", "1"))
    shown = await pair.shown()
    assert [each["number"] for each in shown] == [0, 1]
    assert all(each["connected"] and each["kv"]["pages"] for each in shown)
    assert await pair.counted("lmaas_engine_up") == {"0": 1.0, "1": 1.0}


async def test_sequences_of_a_killed_engine_end_as_if_nothing_had_happened(
    pair: Pair, asked: Asked
) -> None:
    requests = long(asked, 8)
    expected = [(await pair.texts([request]))[0] for request in requests]
    begun, running = pair.streamed(requests)
    await begun
    killed = max(await pair.shown(), key=lambda each: int(each["running"]))["number"]
    pid = pair.engines[killed].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert await running == expected
    assert sum((await pair.counted("lmaas_moved_sequences_total")).values()) > 0
    await pair.until(lambda shown: shown[killed]["connected"])
    await pair.command("drain", 1 - killed)
    before = await pair.submitted()
    await pair.texts(spelled(asked, 8))
    after = await pair.submitted()
    await pair.command("resume", 1 - killed)
    name = str(killed)
    assert after[name] == before[name] + 8, "the engine that returned serves again"


async def test_drained_engine_gets_nothing_and_the_other_serves(pair: Pair, asked: Asked) -> None:
    await pair.command("drain", 0)
    before = await pair.submitted()
    await pair.texts(spelled(asked, 6))
    after = await pair.submitted()
    shown, health = await pair.shown(), await pair.gateway.health()
    await pair.command("resume", 0)
    assert (after["0"], after["1"]) == (before["0"], before["1"] + 6)
    assert [each["draining"] for each in shown] == [True, False]
    assert health["status"] == "ready"


async def test_lines_of_a_job_run_on_several_engines(
    pair: Pair, asked: Asked, tmp_path: Path
) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text(
        "".join(
            json.dumps(
                {
                    "custom_id": str(number),
                    "method": "POST",
                    "url": "/v1/chat/completions",
                    "body": asked("spell", WORDS[number]),
                }
            )
            + "\n"
            for number in range(16)
        )
    )
    before = await pair.submitted()
    async with pair.gateway.client() as client:
        uploaded = await client.files.create(file=file, purpose="batch")
        job = await client.batches.create(
            input_file_id=uploaded.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
        )
        async with asyncio.timeout(PATIENCE_S):
            while job.status not in {"completed", "failed"}:
                await asyncio.sleep(0.1)
                job = await client.batches.retrieve(job.id)
    after = await pair.submitted()
    assert (job.status, job.request_counts.completed) == ("completed", 16)  # type: ignore[union-attr]
    assert sum(after.values()) - sum(before.values()) == 16


async def test_what_is_for_one_engine_is_refused_by_name(pair: Pair, asked: Asked) -> None:
    async with pair.gateway.caller() as caller, pair.gateway.admin() as admin:
        host = await caller.post(
            "/v1/chat/completions", json={**asked("spell", "a word"), "memory": "host-exact"}
        )
        policy = await admin.put("/admin/policy", json={"name": "magnus"})
        unknown = await admin.post("/admin/engine/drain?engine=2")
    assert (host.status_code, host.json()["error"]["param"]) == (400, "memory")
    assert "several engines" in host.json()["error"]["message"]
    assert (policy.status_code, policy.json()["error"]["param"]) == (400, "name")
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "engine")
