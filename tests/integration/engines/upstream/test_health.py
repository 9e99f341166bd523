"""What a server's answers say of it."""

import asyncio

from gateway.engines.upstream.capabilities import Capabilities
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
