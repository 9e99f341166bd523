"""The server that LMAAS_UPSTREAM names is asked what it is."""

import asyncio
from pathlib import Path

from engine.checkpoints.catalogue import DEMO_FOLDER
from gateway.diagnosis.finding import Finding
from gateway.diagnosis.upstream import check_upstream
from gateway.settings import Settings
from tests.openai_server import openai_server


def checked(settings: Settings, url: str) -> Finding:
    (finding,) = check_upstream(settings, url, Path(DEMO_FOLDER))
    return finding


async def test_a_server_is_described_and_one_that_is_away_is_named() -> None:
    async with openai_server() as server:
        server.models[0]["id"] = "lmaas-demo"
        settings = Settings(upstream=server.url, model="demo")
        answers = await asyncio.to_thread(checked, settings, server.url)
        server.key = "secret"
        denied = await asyncio.to_thread(checked, settings, server.url)
    away = await asyncio.to_thread(checked, settings, server.url)
    assert [each.status for each in (answers, denied, away)] == ["ok", "failure", "failure"]
    assert "vllm 0.0.test serves lmaas-demo" in answers.message
    assert "LMAAS_UPSTREAM_API_KEY" in denied.message
    assert "does not answer" in away.message
