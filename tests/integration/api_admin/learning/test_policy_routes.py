"""The scheduling policy over HTTP."""

from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from gateway.generation.service import GenerationService
from gateway.scheduling.policy import POLICY_NAMES, Options


async def policy(client: httpx.AsyncClient) -> dict[str, Any]:
    response = await client.get("/admin/policy")
    assert response.status_code == 200
    return dict(response.json())


async def test_changed_policy_is_active_and_shown(
    client: httpx.AsyncClient, service: GenerationService
) -> None:
    assert (await policy(client))["name"] == "lmaas"
    changed = await client.put("/admin/policy", json={"name": "fixed"})
    assert (changed.status_code, changed.json()["name"]) == (200, "fixed")
    assert service.scheduler.policy.name == "fixed"
    assert await policy(client) == changed.json()


async def test_policy_keeps_its_learned_state(
    client: httpx.AsyncClient, service: GenerationService
) -> None:
    learned = service.scheduler.policy
    for name in ("fixed", "lmaas"):
        await client.put("/admin/policy", json={"name": name})
    assert service.scheduler.policy is learned


async def test_options_are_changed_one_by_one_and_shown(
    client: httpx.AsyncClient, service: GenerationService
) -> None:
    before = await policy(client)
    for change in (
        {"admission": "reserved"},
        {"max_delay_s": None},
        {"waiting_weight": 0.25},
        {"fixed_batch": 4, "waste_share": 0.25, "waste_reads": 50_000.0},
        {"waste_reads": None},
        {"admission": "own", "max_delay_s": before["max_delay_s"]},
    ):
        changed = await client.put("/admin/policy", json={"name": "lmaas", **change})
        assert changed.status_code == 200, changed.text
        assert changed.json().items() >= change.items()
    expected = before | {
        "waiting_weight": 0.25,
        "fixed_batch": 4,
        "waste_share": 0.25,
    }
    assert await policy(client) == expected
    assert service.scheduler.options == replace(
        Options(), waiting_weight=0.25, fixed_batch=4, waste_share=0.25
    )


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"admission": "all"}, "admission"),
        ({"admission": "upper"}, "admission"),
        ({"max_delay_s": -0.1}, "max_delay_s"),
        ({"waiting_weight": -0.1}, "waiting_weight"),
        ({"waiting_weight": 101}, "waiting_weight"),
        ({"waiting_weight": "much"}, "waiting_weight"),
        ({"fixed_batch": 0}, "fixed_batch"),
        ({"fixed_batch": 2.5}, "fixed_batch"),
        ({"waste_share": 1.1}, "waste_share"),
        ({"waste_reads": -1}, "waste_reads"),
        ({"patience": 1}, "patience"),
    ],
)
async def test_wrong_option_is_named_and_changes_nothing(
    client: httpx.AsyncClient, change: dict[str, object], param: str
) -> None:
    before = await policy(client)
    response = await client.put("/admin/policy", json={"name": "fcfs", **change})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert await policy(client) == before


async def test_fallback_to_order_of_arrival_is_shown_with_its_reason(
    client: httpx.AsyncClient, service: GenerationService
) -> None:
    short = await policy(client)
    service.scheduler._loop.trust(False)
    untrusted = await policy(client)
    assert (short["order"], untrusted["order"]) == ("arrival", "arrival")
    assert "too few requests wait" in short["why"]
    assert "predictions" in untrusted["why"]
    plain = (await client.put("/admin/policy", json={"name": "fcfs"})).json()
    assert (plain["order"], plain["why"]) == ("policy", None)


async def test_unknown_policy_is_a_400_that_names_the_known_ones(client: httpx.AsyncClient) -> None:
    response = await client.put("/admin/policy", json={"name": "lifo"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("name", "invalid_value")
    assert all(name in error["message"] for name in POLICY_NAMES)


@pytest.mark.parametrize("body", [{}, {"name": 1}, {"policy": "fixed"}, []])
async def test_wrong_policy_request_is_a_400_and_changes_nothing(
    client: httpx.AsyncClient, body: object
) -> None:
    assert (await client.put("/admin/policy", json=body)).status_code == 400
    assert (await policy(client))["name"] == "lmaas"
