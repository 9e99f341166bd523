"""The queue and its requests over HTTP, without an engine: nothing leaves the queue."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from gateway.database.errors import Sessions
from gateway.errors import RequestCancelled
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from tests.integration.api_admin.conftest import Enqueue


async def queue(client: httpx.AsyncClient, **query: object) -> dict[str, Any]:
    response = await client.get("/admin/queue", params=query)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def test_empty_queue_is_an_empty_list(client: httpx.AsyncClient) -> None:
    assert await queue(client) == {
        "object": "list",
        "totals": {
            "waiting": 0, "running": 0, "batches": 0, "waiting_tokens": 0, "longest_wait_s": 0.0,
            "forecast_age_s": None, "forecast_interval_s": 1.0,
        },
        "data": [],
        "has_more": False,
    }  # fmt: skip


async def test_queue_shows_each_requests_prediction_and_position(
    client: httpx.AsyncClient, enqueue: Enqueue
) -> None:
    states = [enqueue(length, deadline_s=1e9) for length in (30.0, 10.0, 20.0)]
    shown = await queue(client)
    assert shown["totals"]["waiting_tokens"] == 60.0
    assert [each["position"] for each in shown["data"]] == [1, 2, 3]
    assert {each["id"] for each in shown["data"]} == {str(state.id) for state in states}
    first = shown["data"][0]
    assert (first["state"], first["tenant"], first["prompt_tokens"]) == ("waiting", "tenant 1", 3)
    assert first["ratio"] >= 1.0
    assert first["batch"]
    assert (first["expected_start_s"], first["expected_finish_s"]) == (None, None)


async def test_queue_is_paged_and_narrowed_to_a_tenant(
    client: httpx.AsyncClient, enqueue: Enqueue
) -> None:
    for number in range(5):
        enqueue(tenant=1 + number % 2)
    page = await queue(client, limit=3)
    rest = await queue(client, limit=3, offset=3)
    assert (len(page["data"]), page["has_more"]) == (3, True)
    assert (len(rest["data"]), rest["has_more"]) == (2, False)
    narrowed = await queue(client, tenant=str(UUID(int=2)))
    assert {each["tenant"] for each in narrowed["data"]} == {"tenant 2"}
    assert narrowed["totals"]["waiting"] == 5


@pytest.mark.parametrize(
    ("query", "param"),
    [({"limit": 0}, "limit"), ({"limit": 1001}, "limit"), ({"tenant": "x"}, "tenant")],
)
async def test_wrong_query_is_named(
    client: httpx.AsyncClient, query: dict[str, object], param: str
) -> None:
    response = await client.get("/admin/queue", params=query)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_cancelled_request_leaves_the_queue_with_an_error(
    client: httpx.AsyncClient, enqueue: Enqueue
) -> None:
    state, other = enqueue(), enqueue()
    response = await client.post(f"/admin/requests/{state.id}/cancel")
    assert response.status_code == 200
    assert (response.json()["state"], response.json()["finish_reason"]) == ("ended", "cancelled")
    assert isinstance(state.error, RequestCancelled)
    assert [each["id"] for each in (await queue(client))["data"]] == [str(other.id)]
    again = await client.post(f"/admin/requests/{state.id}/cancel")
    assert again.status_code == 404


async def test_waiting_request_is_explained_under_its_answers_id_too(
    client: httpx.AsyncClient, enqueue: Enqueue
) -> None:
    enqueue()
    state = enqueue(service_tier="priority", max_queue_s=1e9)
    names = (str(state.id), state.id.hex, f"chatcmpl-{state.id.hex}", f"cmpl-{state.id.hex}")
    answers = [(await client.get(f"/admin/requests/{name}")).json() for name in names]
    assert {answer["id"] for answer in answers} == {str(state.id)}
    shown = answers[0]
    assert (shown["state"], shown["queue_ahead"], shown["batch"]) == ("waiting", 1, None)
    assert (shown["service_tier"], shown["policy"]) == ("priority", "lmaas")
    assert shown["why"].startswith("It has waited ")
    assert "1 request waited when it came" in shown["why"]


@pytest.mark.parametrize("name", ["x", "chatcmpl-", "chatcmpl-x", "019a"])
async def test_invalid_id_is_not_found(client: httpx.AsyncClient, name: str) -> None:
    for response in (
        await client.get(f"/admin/requests/{name}"),
        await client.post(f"/admin/requests/{name}/cancel"),
    ):
        assert response.status_code == 404
        assert response.json()["error"]["message"] == f"there is no request {name}"


async def test_ended_request_is_explained_from_history(
    client: httpx.AsyncClient,
    sessions: Sessions,
    tmp_path: Path,
    a_record: Callable[..., Record],
) -> None:
    record = a_record(
        queued_s=2.0,
        first_token_s=2.5,
        response_s=6.0,
        preempted_s=1.0,
        queue_ahead=3,
        passed_by=0,
        policy_order="arrival",
        preemptions=1,
    )
    writer = HistoryWriter(sessions, tmp_path)
    writer.record(record)
    await writer.flush()
    shown = (await client.get(f"/admin/requests/{record.id}")).json()
    assert (shown["state"], shown["waited_s"], shown["generation_tokens"]) == ("ended", 2.0, 12)
    assert shown["passes"] == {"urgent": 0, "other_tenant": 0, "shorter": 0, "other": 0}
    assert shown["why"] == (
        "It waited 2.00 s: 3 requests waited when it came; the order was that of arrival; while it "
        "ran it was suspended once, 1.00 s in all, because memory had run out; its prompt took "
        "0.50 s, and its answer 2.50 s next to others."
    )
    assert sum(shown["times"].values()) == pytest.approx(shown["response_s"])


async def test_read_key_sees_the_queue_and_cannot_cancel(
    client: httpx.AsyncClient, enqueue: Enqueue
) -> None:
    state = enqueue()
    made = await client.post("/admin/scoped-keys", json={"name": "grafana", "scopes": ["read"]})
    headers = {"authorization": f"Bearer {made.json()['secret']}"}
    assert (await client.get("/admin/queue", headers=headers)).status_code == 200
    refused = await client.post(f"/admin/requests/{state.id}/cancel", headers=headers)
    assert refused.status_code == 403
    assert not state.done
