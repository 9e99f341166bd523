"""A gateway whose start, stop and parts are watched from outside."""

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import httpx
import openai
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.faults import server as server_module
from benchmarks.faults.clients import Clients, bodies
from benchmarks.faults.reconciliation import differing, failures
from benchmarks.faults.server import PostgresProcesses, own_server
from engine.demo.lexicon import VELAN
from gateway.errors import StartupFailure
from tests.conftest import PATIENCE_S
from tests.e2e.conftest import streamed_across

Asked = Callable[..., dict[str, Any]]
TWENTY = " ".join(list(VELAN)[:20])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def test_gateway_answers_from_its_start_to_its_stop(serve: Any, asked: Asked) -> None:
    port = free_port()
    gateway = serve(
        "faults",
        LMAAS_PORT=str(port),
        LMAAS_STOP_DELAY_S="600",
        LMAAS_MAX_ENGINE_SILENCE_S="2",
    )
    gateway.url = f"http://127.0.0.1:{port}"
    await assert_start_is_reported(gateway)
    await gateway.ready()
    async with gateway.client() as client:
        await assert_stopped_engine_is_replaced(gateway, client, asked)
        await assert_newcomers_are_served_while_it_stops(gateway, client, asked)
    assert await gateway.stop() == 0


async def assert_start_is_reported(gateway: Any) -> None:
    """Health routes and any other say that the gateway starts, and what it does."""
    async with gateway.stranger() as client:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with suppress(httpx.TransportError):
                    live = await client.get("/health/live")
                    break
                await asyncio.sleep(0.02)
        ready = await client.get("/health/ready")
        models = await client.get("/v1/models")
        chat = await client.post("/v1/chat/completions", json={"model": "lmaas-demo"})
    assert (live.status_code, live.json()) == (HTTPStatus.OK, {"status": "ok"})
    assert ready.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    assert ready.json()["status"] == "starting"
    assert ready.json()["reason"]
    for refused in (models, chat):
        assert refused.status_code == HTTPStatus.SERVICE_UNAVAILABLE
        assert refused.json()["error"]["code"] == "starting"
        assert refused.headers["retry-after"]
        assert refused.headers["x-request-id"]


async def assert_stopped_engine_is_replaced(
    gateway: Any, client: openai.AsyncOpenAI, asked: Asked
) -> None:
    """A stream whose engine stands still goes on in the next one, with the same text."""
    request = asked("spell", TWENTY)
    whole = (await client.chat.completions.create(**request)).choices[0].message.content
    stopped: psutil.Process = gateway.engine()
    pieces = await streamed_across(client, request, stopped.suspend)
    assert "".join(pieces) == whole
    assert gateway.engine().pid != stopped.pid
    async with gateway.stranger() as stranger:
        metrics = (await stranger.get("/metrics")).text
    samples = [
        (sample.name, sample.labels["part"], sample.value)
        for family in text_string_to_metric_families(metrics)
        if family.name.startswith("lmaas_part_")
        for sample in family.samples
    ]
    assert sorted(samples) == [
        ("lmaas_part_restarts_total", "database", 0.0),
        ("lmaas_part_restarts_total", "engine", 1.0),
        ("lmaas_part_restarts_total", "predictor", 0.0),
        ("lmaas_part_up", "database", 1.0),
        ("lmaas_part_up", "engine", 1.0),
        ("lmaas_part_up", "history", 1.0),
        ("lmaas_part_up", "predictor", 1.0),
    ]


async def assert_newcomers_are_served_while_it_stops(
    gateway: Any, client: openai.AsyncOpenAI, asked: Asked
) -> None:
    """After SIGTERM readiness says no first; who comes nevertheless is served."""
    gateway.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE_S), gateway.stranger() as stranger:
        while (ready := await stranger.get("/health/ready")).status_code == HTTPStatus.OK:
            await asyncio.sleep(0.02)
    assert ready.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    assert ready.json()["status"] == "stopping"
    answer = await client.chat.completions.create(**asked("translate", "brave king"))
    assert answer.choices[0].finish_reason == "stop"


async def test_killed_parts_cost_no_request_and_no_record(own: Any) -> None:
    """Engine, predictor and PostgreSQL are killed under load; every answer is the right one."""
    gateway = await own.running()
    tenant, key = await gateway.tenant("killed parts")
    kinds = bodies(seed=11)
    clients = Clients(gateway.url, key, kinds)
    right = [(await clients.ask(kind)).texts for kind in range(len(kinds))]
    postgres = PostgresProcesses(gateway.data_dir)
    async with asyncio.TaskGroup() as asked:
        for kill in (gateway.engine().kill, gateway.predictor().kill, postgres.kill):
            for kind in range(len(kinds)):
                asked.create_task(clients.ask(kind))
            answered = len(clients.answers)
            while len(clients.answers) < answered + len(kinds) // 4:
                await asyncio.sleep(0.01)
            kill()
    await clients.close()
    assert failures(clients.answers) == {}
    assert differing(clients.answers, dict(enumerate(right))) == 0
    choices = sum(kinds[answer.kind]["n"] for answer in clients.answers)
    assert await recorded(gateway, tenant, choices) == choices


async def test_faults_of_a_database_server_of_ones_own_cost_no_request_and_no_record(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed, stands still and is restarted under load; the gateway cannot start it again."""
    monkeypatch.setattr(server_module, "AWAY_S", 1.0)
    kinds = bodies(seed=12)
    with own_server() as server:
        gateway = await serve("own-server", DATABASE_URL=server.url).ready()
        tenant, key = await gateway.tenant("own server")
        clients = Clients(gateway.url, key, kinds)
        right = [(await clients.ask(kind)).texts for kind in range(len(kinds))]
        async with asyncio.TaskGroup() as asked:
            for fault in (server.kill, server.suspend, server.restart):
                for kind in range(len(kinds)):
                    asked.create_task(clients.ask(kind))
                await asyncio.to_thread(fault)
        await clients.close()
        assert failures(clients.answers) == {}
        assert differing(clients.answers, dict(enumerate(right))) == 0
        choices = sum(kinds[answer.kind]["n"] for answer in clients.answers)
        assert await recorded(gateway, tenant, choices, server.url) == choices
        assert await gateway.stop() == 0, gateway.errors.read_text()


async def recorded(gateway: Any, tenant: str, choices: int, url: str | None = None) -> int:
    """A tenant's records once there are `choices`; its Postgres may be starting again."""
    found = 0
    async with asyncio.timeout(PATIENCE_S):
        while found < choices:
            with suppress(StartupFailure):
                found = int(await gateway.history(tenant, url))
            await asyncio.sleep(0.1)
    return found
