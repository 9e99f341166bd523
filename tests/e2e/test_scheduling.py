"""Service tiers, deadlines, the live queue and metrics."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import PATIENCE_S

Asked = Callable[..., dict[str, Any]]
WORDS = "brave queen finds golden castle"


@asynccontextmanager
async def drained(served: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The admin API of a drained engine: waiting requests do not start meanwhile."""
    async with served.admin() as admin:
        (await admin.post("/admin/engine/drain")).raise_for_status()
        try:
            yield admin
        finally:
            (await admin.post("/admin/engine/resume")).raise_for_status()
    await served.idle()


async def queue_of(admin: httpx.AsyncClient, waiting: int) -> dict[str, Any]:
    """The queue, once `waiting` requests wait."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            queue = (await admin.get("/admin/queue")).raise_for_status().json()
            if queue["totals"]["waiting"] == waiting:
                return dict(queue)
            await asyncio.sleep(0.02)


async def explained(admin: httpx.AsyncClient, name: str) -> dict[str, Any]:
    """The explanation of a request, once it is known."""
    async with asyncio.timeout(PATIENCE_S):
        while (response := await admin.get(f"/admin/requests/{name}")).status_code == 404:
            await asyncio.sleep(0.05)
    return dict(response.raise_for_status().json())


async def scraped(served: Any, secret: str | None = None) -> dict[str, float]:
    """Metrics by name and, after spaces, the values of their labels."""
    async with served.stranger() as client:
        headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
        response = (await client.get("/metrics", headers=headers)).raise_for_status()
    return {
        sample.name + "".join(f" {value}" for _, value in sorted(sample.labels.items())): (
            sample.value
        )
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("requested", "applied"),
    [(None, None), ("auto", "default"), ("flex", "flex"), ("priority", "priority")],
)
async def test_applied_service_tier_is_reported_if_one_was_requested(
    client: openai.AsyncOpenAI, asked: Asked, requested: Any, applied: str | None
) -> None:
    tier = {} if requested is None else {"service_tier": requested}
    whole = await client.chat.completions.create(**asked("translate", WORDS, **tier))
    assert whole.service_tier == applied
    stream: Any = await client.chat.completions.create(
        **asked("translate", WORDS, stream=True, **tier)
    )
    assert {chunk.service_tier async for chunk in stream} == {applied}
    text = await client.completions.create(model="lmaas-demo", prompt="king", extra_body=tier)
    assert text.model_extra is not None
    assert text.model_extra.get("service_tier") == applied


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"extra_body": {"service_tier": "gold"}}, "service_tier"),
        ({"extra_headers": {"x-lmaas-deadline-ms": "soon"}}, "x-lmaas-deadline-ms"),
        ({"extra_headers": {"x-lmaas-max-queue-ms": "0"}}, "x-lmaas-max-queue-ms"),
        ({"extra_headers": {"x-stainless-read-timeout": "long"}}, "x-stainless-read-timeout"),
    ],
)
async def test_invalid_tier_or_limit_is_refused_and_named(
    client: openai.AsyncOpenAI, asked: Asked, change: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**asked("translate", WORDS), **change)
    assert caught.value.param == param


async def test_deadline_that_can_be_met_is_kept(client: openai.AsyncOpenAI, asked: Asked) -> None:
    completion = await client.chat.completions.create(
        **asked("translate", WORDS), extra_headers={"x-lmaas-deadline-ms": "600000"}
    )
    assert completion.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("streamed", [True, False])
async def test_infeasible_deadline_is_refused_at_once_with_retry_after(
    client: openai.AsyncOpenAI, asked: Asked, streamed: bool
) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(
            **asked("spell", WORDS, stream=streamed), extra_headers={"x-lmaas-deadline-ms": "1"}
        )
    assert (caught.value.status_code, caught.value.code) == (503, "deadline_unreachable")
    assert int(caught.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    "headers", [{"x-lmaas-max-queue-ms": "200"}, {"x-stainless-read-timeout": "0.2"}]
)
async def test_request_ends_at_its_longest_queue_time(
    served: Any, asked: Asked, headers: dict[str, str]
) -> None:
    async with drained(served), served.caller() as caller:
        response = await caller.post(
            "/v1/chat/completions", json=asked("translate", WORDS), headers=headers
        )
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "queue_time_exceeded"
    assert int(response.headers["retry-after"]) >= 1


async def test_read_timeout_of_the_client_bounds_the_wait(
    served: Any, client: openai.AsyncOpenAI, asked: Asked
) -> None:
    async with drained(served) as admin:
        patient = client.with_options(timeout=openai.Timeout(PATIENCE_S, connect=5.0))
        running = asyncio.create_task(patient.chat.completions.create(**asked("translate", WORDS)))
        (waiting,) = (await queue_of(admin, 1))["data"]
    assert 0 < waiting["start_by_s"] <= PATIENCE_S
    assert (await running).choices[0].finish_reason == "stop"


async def test_operator_sees_the_queue_cancels_and_gets_explanations(
    served: Any, client: openai.AsyncOpenAI, asked: Asked
) -> None:
    async with drained(served) as admin:
        first = asyncio.create_task(client.chat.completions.create(**asked("translate", WORDS)))
        await queue_of(admin, 1)
        second = asyncio.create_task(
            client.chat.completions.create(**asked("spell", WORDS, service_tier="flex"))
        )
        queue = await queue_of(admin, 2)
        assert [each["position"] for each in queue["data"]] == [1, 2]
        assert {each["tenant"] for each in queue["data"]} == {"demo"}
        flex = next(each for each in queue["data"] if each["service_tier"] == "flex")
        waiting = (await admin.get(f"/admin/requests/{flex['id']}")).json()
        assert (waiting["state"], waiting["queue_ahead"]) == ("waiting", 1)
        cancelled = await admin.post(f"/admin/requests/{flex['id']}/cancel")
        assert cancelled.status_code == 200
        with pytest.raises(openai.ConflictError) as caught:
            await second
        assert caught.value.code == "request_cancelled"
        assert (await queue_of(admin, 1))["data"][0]["id"] != flex["id"]
    completion = await first
    async with served.admin() as admin:
        served_one = await explained(admin, completion.id)
        ended = await explained(admin, flex["id"])
    assert (served_one["state"], served_one["finish_reason"]) == ("ended", "stop")
    assert served_one["why"].startswith(("It waited ", "It started at once"))
    assert served_one["kv_free_pages"] > 0
    assert (ended["finish_reason"], ended["batch"]) == ("cancelled", None)
    assert "without having started" in ended["why"]


async def test_cancelled_stream_ends_with_an_error_event(
    served: Any, client: openai.AsyncOpenAI, asked: Asked
) -> None:
    async with drained(served) as admin:
        stream: Any = await client.chat.completions.create(**asked("spell", WORDS, stream=True))
        (waiting,) = (await queue_of(admin, 1))["data"]
        await admin.post(f"/admin/requests/{waiting['id']}/cancel")
        with pytest.raises(openai.APIError, match="an operator cancelled the request"):
            async for _ in stream:
                pass


async def test_metrics_count_requests_and_name_tenants_to_the_admin_alone(
    served: Any, client: openai.AsyncOpenAI, asked: Asked
) -> None:
    before = await scraped(served)
    completion = await client.chat.completions.create(**asked("translate", WORDS))
    assert completion.usage is not None
    await served.idle()
    after = await scraped(served, "sk-lmaas-tests-of-the-admin")

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert grown("lmaas_requests_total stop default") == 1
    assert grown("lmaas_generated_tokens_total") == completion.usage.completion_tokens
    assert grown("lmaas_prompt_tokens_total") == completion.usage.prompt_tokens
    assert grown("lmaas_response_seconds_count") == 1
    assert after["lmaas_policy lmaas"] == 1
    assert after["lmaas_kv_pages"] > 0
    assert after["lmaas_waiting_requests"] == 0
    assert after["lmaas_tenant_requests_total demo"] >= 1
    assert after["lmaas_tenant_virtual_tokens demo"] > 0
    assert not [name for name in before if name.startswith("lmaas_tenant")]
    assert not [name for name in before if name.endswith(" demo")]


async def test_a_waiting_request_shows_its_state_and_an_ended_one_where_its_time_went(
    served: Any, client: openai.AsyncOpenAI, asked: Asked
) -> None:
    async with drained(served) as admin:
        create = client.chat.completions.with_raw_response.create
        task: asyncio.Task[Any] = asyncio.create_task(create(**asked("translate", WORDS)))
        queue = await queue_of(admin, waiting=1)
        name = queue["data"][0]["id"]
        waiting = await client.get(f"/requests/{name}", cast_to=dict[str, Any])
        assert (waiting["state"], waiting["outcome"], waiting["cost"]) == ("waiting", None, None)
        assert waiting["times"]["waited_s"] > 0
    raw = await task
    assert int(raw.headers["x-lmaas-expected-wait-ms"]) >= 0
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                ended = await client.get(f"/requests/{raw.parse().id}", cast_to=dict[str, Any])
                if ended["state"] == "ended":
                    break
            except openai.NotFoundError:
                pass
            await asyncio.sleep(0.05)
    assert ended["id"] == name
    assert "its prompt took" in ended["why"]
    async with served.admin() as admin:
        explanation = await explained(admin, name)
    assert sum(ended["times"].values()) == pytest.approx(explanation["response_s"], rel=0.01)
