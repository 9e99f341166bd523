"""The servers that LMAAS_UPSTREAM names are asked what they are."""

import asyncio
from pathlib import Path

from engine.checkpoints.catalogue import DEMO_FOLDER
from gateway.diagnosis.finding import Finding
from gateway.diagnosis.upstream import check_upstreams
from gateway.settings import Settings
from tests.openai_server import openai_server


def checked(settings: Settings) -> list[Finding]:
    return list(check_upstreams(settings, Path(DEMO_FOLDER)))


async def test_a_server_is_described_and_one_that_is_away_is_named() -> None:
    async with openai_server() as server:
        server.models[0]["id"] = "lmaas-demo"
        settings = Settings(upstream=server.url, model="demo")
        [answers] = await asyncio.to_thread(checked, settings)
        server.key = "secret"
        [denied] = await asyncio.to_thread(checked, settings)
    [away] = await asyncio.to_thread(checked, settings)
    assert [each.status for each in (answers, denied, away)] == ["ok", "failure", "failure"]
    assert "vllm 0.0.test serves lmaas-demo" in answers.message
    assert "LMAAS_UPSTREAM_API_KEY" in denied.message
    assert "does not answer" in away.message


async def test_each_of_several_servers_is_asked_with_its_key() -> None:
    async with openai_server() as one, openai_server() as other:
        one.key, other.key = "a-key", "b-key"
        named = f"{one.url},{other.url}"
        settings = Settings(upstream=named, upstream_api_key="a-key,b-key", model="demo")
        found = await asyncio.to_thread(checked, settings)
        swapped = Settings(upstream=named, upstream_api_key="a-key", model="demo")
        partly = await asyncio.to_thread(checked, swapped)
    assert [each.status for each in found] == ["ok", "ok"]
    assert [each.status for each in partly] == ["ok", "failure"]
    assert other.url in partly[1].message


def test_keys_that_fit_no_servers_are_a_finding() -> None:
    settings = Settings(upstream="http://a http://b", upstream_api_key="x,y,z", model="demo")
    [found] = checked(settings)
    assert (found.status, "3 keys" in found.message) == ("failure", True)
