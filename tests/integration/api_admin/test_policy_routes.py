"""The scheduling policy over HTTP."""

import httpx
import pytest

from gateway.generation.service import Generations
from gateway.scheduling.policies import NAMES


async def test_changed_policy_is_at_work_and_shown(
    client: httpx.AsyncClient, generations: Generations
) -> None:
    assert (await client.get("/admin/policy")).json() == {"name": "lmaas"}
    changed = await client.put("/admin/policy", json={"name": "fixed"})
    assert (changed.status_code, changed.json()) == (200, {"name": "fixed"})
    assert generations.dispatcher.policy.name == "fixed"
    assert (await client.get("/admin/policy")).json() == {"name": "fixed"}


async def test_policy_that_comes_back_is_the_one_that_learned(
    client: httpx.AsyncClient, generations: Generations
) -> None:
    learned = generations.dispatcher.policy
    for name in ("fixed", "lmaas"):
        await client.put("/admin/policy", json={"name": name})
    assert generations.dispatcher.policy is learned


async def test_unknown_policy_is_a_400_that_names_the_known_ones(client: httpx.AsyncClient) -> None:
    response = await client.put("/admin/policy", json={"name": "lifo"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("name", "invalid_value")
    assert all(name in error["message"] for name in NAMES)


@pytest.mark.parametrize("body", [{}, {"name": 1}, {"policy": "fixed"}, []])
async def test_wrong_policy_request_is_a_400_and_changes_nothing(
    client: httpx.AsyncClient, body: object
) -> None:
    assert (await client.put("/admin/policy", json=body)).status_code == 400
    assert (await client.get("/admin/policy")).json() == {"name": "lmaas"}
