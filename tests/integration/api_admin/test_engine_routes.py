"""The engine over HTTP, as of its newest step."""

import httpx

from engine.protocol import EngineInfo, KvState, Step, StepTimes
from gateway.generation.service import GenerationService

KV = KvState(pages=64, free=64, page_tokens=16)
INFO = EngineInfo("epoch", "m", 512, 100, [4], KV, "cuda:0", "bfloat16")


async def test_engine_is_shown_before_it_ever_connected(client: httpx.AsyncClient) -> None:
    shown = (await client.get("/admin/engine")).json()
    assert (shown["connected"], shown["info"], shown["kv"], shown["step"]) == (
        False,
        None,
        None,
        None,
    )


async def test_engine_is_shown_as_of_its_newest_step(
    client: httpx.AsyncClient, service: GenerationService
) -> None:
    service.scheduler.events[0].engine_ready(INFO)
    before = (await client.get("/admin/engine")).json()
    kv = KvState(pages=64, free=10, page_tokens=16, cached=3, shared=2)
    times = StepTimes(0.001, 0.002, 0.0, 0.01, 0.0)
    service.scheduler.events[0].engine_stepped(
        Step(7, kv, {}, running=5, suspended=1, waiting=2, computed=9, took_s=0.011, times=times)
    )
    shown = (await client.get("/admin/engine")).json()
    assert (before["kv"]["free"], before["step"]) == (64, None)
    assert shown["info"]["device"] == "cuda:0"
    assert shown["kv"] == {
        "pages": 64, "free": 10, "page_tokens": 16, "cached": 3, "shared": 2, "swapped": 0
    }  # fmt: skip
    assert (shown["step"]["running"], shown["step"]["suspended"]) == (5, 1)
    assert (shown["step"]["waiting"], shown["step"]["times"]["model_s"]) == (2, 0.01)


async def test_paused_or_drained_engine_makes_the_gateway_unready(
    client: httpx.AsyncClient, service: GenerationService
) -> None:
    service.scheduler.events[0].engine_ready(INFO)
    for action, paused, draining in (
        ("pause", True, False),
        ("drain", True, True),
        ("resume", False, False),
    ):
        response = await client.post(f"/admin/engine/{action}")
        assert response.status_code == 200
        shown = response.json()
        assert (shown["paused"], shown["draining"]) == (paused, draining)
        assert service.ready == (not paused)
