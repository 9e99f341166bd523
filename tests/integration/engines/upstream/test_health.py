"""What a server's answers say of it."""

import asyncio

import pytest

from gateway.engines.upstream.capabilities import Capabilities
from gateway.engines.upstream.failures import ServerUnreachable
from gateway.engines.upstream.health import ServerHealth
from gateway.engines.upstream.server import UpstreamServer
from tests.conftest import PATIENCE_S
from tests.integration.engines.upstream.conftest import MODEL
from tests.openai_server import OpenAiServer

VLLM = Capabilities(
    kind="vllm", version="1", model="model", token_prompts=True, token_answers=True, metrics=True
)


async def test_answer_to_an_earlier_question_does_not_confirm_a_server(
    server: OpenAiServer,
) -> None:
    http = UpstreamServer(server.url, None, connections=1)
    health = ServerHealth(http, MODEL, None, VLLM)
    server.metrics_allowed.clear()
    checking = asyncio.create_task(health.check(silent=False))
    async with asyncio.timeout(PATIENCE_S):
        await server.metrics_asked.wait()
    confirming = asyncio.create_task(health.confirmed(with_model=True))
    await asyncio.sleep(0)

    server.key = "other"
    server.metrics_allowed.set()
    assert await checking is None
    assert "refuses the key" in str(await health.check(silent=False))
    assert not confirming.done()

    server.key = None
    assert await health.check(silent=True) is None
    async with asyncio.timeout(PATIENCE_S):
        await confirming
    await http.close()


async def test_only_a_refused_connection_says_at_once_that_a_server_is_away(
    server: OpenAiServer,
) -> None:
    await server.stop()

    async def refused(url: str) -> bool:
        http = UpstreamServer(url, None, connections=1)
        with pytest.raises(ServerUnreachable) as found:
            await http.fetch("/v1/models")
        await http.close()
        return found.value.refused

    assert await refused(server.url)
    assert await refused(server.url.replace("127.0.0.1", "localhost"))
    assert not await refused("http://no-such-host.invalid")


async def test_questions_without_an_answer_follow_each_other_after_a_while(
    server: OpenAiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    http = UpstreamServer(server.url, None, connections=1)
    health = ServerHealth(http, MODEL, None, VLLM)
    server.faults = [(502, "a blip", {})] * 3
    for _ in range(2):
        assert await health.check(silent=False) is None
        monkeypatch.setattr("gateway.engines.upstream.health.AGAIN_S", 3_600.0)
        confirming = asyncio.create_task(health.confirmed())
        waiting = asyncio.create_task(health.due(0.0))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done(), "not even for a suspicion"
        for task in (waiting, confirming):
            task.cancel()
        await asyncio.gather(waiting, confirming, return_exceptions=True)
        monkeypatch.setattr("gateway.engines.upstream.health.AGAIN_S", 0.0)
        await health.due(0.0)
    assert "status 502" in str(await health.check(silent=False))
    await http.close()
