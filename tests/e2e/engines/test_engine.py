"""An operator pauses, drains and resumes the engine while clients send requests."""

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from engine.demo.lexicon import VELAN
from tests.conftest import PATIENCE_S

Asked = Callable[..., dict[str, Any]]
TWENTY = " ".join(list(VELAN)[:20])


async def post_engine_action(served: Any, action: str) -> dict[str, Any]:
    async with served.admin() as admin:
        return dict((await admin.post(f"/admin/engine/{action}")).raise_for_status().json())


async def running_at(
    served: Any, client: openai.AsyncOpenAI, request: dict[str, Any], action: str
) -> asyncio.Task[ChatCompletion]:
    """A request that runs after the action; one that ended before it is sent again."""
    while True:
        running = asyncio.create_task(client.chat.completions.create(**request))
        while not (await served.health())["running"] and not running.done():
            await asyncio.sleep(0.01)
        assert (await post_engine_action(served, action))["connected"]
        if (await served.health())["running"]:
            return running
        await post_engine_action(served, "resume")
        await running


async def test_pause_and_drain_delay_requests_without_errors(
    served: Any, client: openai.AsyncOpenAI, asked: Asked
) -> None:
    request = asked("spell", TWENTY)
    whole = (await client.chat.completions.create(**request)).choices
    for action in ("pause", "drain"):
        running = await running_at(served, client, request, action)
        late = asyncio.create_task(client.chat.completions.create(**request))
        async with asyncio.timeout(PATIENCE_S):
            while (health := await served.health())["waiting"] != 1:
                await asyncio.sleep(0.01)
            if action == "drain":
                await asyncio.wait([running])
        done, _ = await asyncio.wait([running, late], timeout=1.0)
        assert done == ({running} if action == "drain" else set())
        assert (health["status"], health["engine"]) == ("unavailable", "held")
        await post_engine_action(served, "resume")
        assert (await running).choices == (await late).choices == whole


@pytest.mark.parametrize("endpoint", ["chat/completions", "completions"])
async def test_headers_of_a_waiting_stream_are_sent_at_once_without_a_batch(
    served: Any, asked: Asked, endpoint: str
) -> None:
    body = asked("translate", "brave king", stream=True)
    if endpoint == "completions":
        body["prompt"] = body.pop("messages")[-1]["content"]
    await post_engine_action(served, "drain")
    async with served.caller() as caller, caller.stream("POST", f"/v1/{endpoint}", json=body) as it:
        assert "x-lmaas-predicted-tokens" in it.headers
        assert "x-lmaas-batch" not in it.headers
        await post_engine_action(served, "resume")
        assert (await it.aread()).endswith(b"data: [DONE]\n\n")


async def test_engine_killed_while_paused_stays_paused(
    served: Any, client: openai.AsyncOpenAI, asked: Asked
) -> None:
    request = asked("spell", TWENTY)
    whole = (await client.chat.completions.create(**request)).choices
    before = await post_engine_action(served, "pause")
    task = asyncio.create_task(client.chat.completions.create(**request))
    served.engine().kill()
    async with asyncio.timeout(PATIENCE_S):
        while (now := await post_engine_action(served, "pause"))["info"]["epoch"] == before["info"][
            "epoch"
        ]:
            await asyncio.sleep(0.1)
    assert (now["paused"], task.done()) == (True, False)
    await post_engine_action(served, "resume")
    assert (await task).choices == whole


async def test_engine_is_shown_with_memory_and_newest_step(
    served: Any, client: openai.AsyncOpenAI, asked: Asked
) -> None:
    await client.chat.completions.create(**asked("translate", "brave king"))
    await served.idle()
    async with served.admin() as admin:
        shown = (await admin.get("/admin/engine")).json()
    assert shown["info"]["model"].endswith("lmaas-demo")
    assert shown["kv"]["pages"] * shown["kv"]["page_tokens"] == 32_768
    assert shown["info"]["dtype_reason"] == "the weights' own format"
    assert shown["step"]["number"] > 0
    assert (shown["mode"], shown["paused"], shown["draining"]) == ("continuous", False, False)


def test_gateway_that_serves_the_demo_model_names_the_command_for_another(served: Any) -> None:
    assert "serving the demo model; `lmaas models fetch smollm2`" in served.errors.read_text()
