"""The predictor's life cycle through the API: two gateways on one database."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import PATIENCE_S

ENDED = ("succeeded", "failed", "cancelled")


@pytest.fixture
async def pair(serve: Any, copied_database: Callable[[str], str]) -> AsyncIterator[tuple[Any, Any]]:
    """Two gateways with one database."""
    url = copied_database("pair")
    first = await serve("first", DATABASE_URL=url).ready()  # it makes the key
    second = await serve("second", DATABASE_URL=url).ready()
    yield first, second
    for gateway in (second, first):
        assert await gateway.stop() == 0, gateway.errors.read_text()


async def a_log(admin: httpx.AsyncClient, lines: int) -> bytes:
    """A log of a new app whose answers are twice as long as the inputs."""
    tenant = (await admin.post("/admin/tenants", json={"name": "importers"})).json()
    body = {"name": "doubler", "instruction": "Say it twice."}
    app = (await admin.post(f"/admin/tenants/{tenant['id']}/apps", json=body)).json()
    random = Random(1)
    sizes = [random.randint(3, 60) for _ in range(lines)]
    return b"\n".join(
        json.dumps({"app": app["id"], "input": "word " * size, "tokens": 2 * size}).encode()
        for size in sizes
    )


async def ended(admin: httpx.AsyncClient, run: dict[str, Any]) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_S):
        while run["state"] not in ENDED:
            await asyncio.sleep(0.05)
            run = (await admin.get(f"/admin/training-runs/{run['id']}")).json()
    return run


async def used_by(gateways: tuple[Any, Any], version: str) -> None:
    """Returns once every gateway predicts with this version."""
    async with asyncio.timeout(PATIENCE_S):
        for gateway in gateways:
            while (await gateway.health())["predictor_version"] != version:
                await asyncio.sleep(0.05)


async def trainer(gateway: Any) -> psutil.Process:
    """The training process of a gateway, once there is one."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for child in psutil.Process(gateway.process.pid).children():
                if "gateway.prediction.lifecycle.training_process" in child.cmdline():
                    return child
            await asyncio.sleep(0.01)


async def test_version_is_trained_activated_exported_imported_and_rolled_back(
    pair: tuple[Any, Any],
) -> None:
    async with pair[0].admin() as one, pair[1].admin() as other:
        added = await one.post("/admin/predictors/samples", content=await a_log(one, 200))
        assert added.json()["rows"] == 200, added.text

        doomed = (await one.post("/admin/predictors")).json()
        assert (await other.post("/admin/predictors")).status_code == 409
        os.kill((await trainer(pair[0])).pid, signal.SIGKILL)
        doomed = await ended(other, doomed)
        assert (doomed["state"], doomed["error"]) == (
            "failed",
            "the training process was killed by signal 9",
        )

        unwanted = (await other.post("/admin/predictors")).json()
        assert (await one.post(f"/admin/training-runs/{unwanted['id']}/cancel")).status_code == 202
        unwanted = await ended(one, unwanted)
        assert (unwanted["state"], unwanted["predictor_id"]) == ("cancelled", None)

        made = await ended(other, (await other.post("/admin/predictors")).json())
        assert (made["state"], made["rows_read"]) == ("succeeded", 200), made["error"]
        first = made["predictor_id"]
        await used_by(pair, first)

        exported = await one.get(f"/admin/predictors/{first}/export")
        assert (
            await other.post("/admin/predictors/import", content=b"x" + exported.content)
        ).json()["error"]["code"] == "predictor_refused"
        second = (await other.post("/admin/predictors/import", content=exported.content)).json()
        await other.post(f"/admin/predictors/{second['id']}/activate")
        await used_by(pair, second["id"])
        assert (await one.post("/admin/predictors/rollback")).json()["id"] == first
        await used_by(pair, first)

        compared = (await one.get(f"/admin/predictors/{first}/compare/{second['id']}")).json()
        assert compared["scorecards"][0] == compared["scorecards"][1]
        assert compared["scorecards"][0]["tau"] > 0.8

        schedule = (await one.get("/admin/training-schedule")).json()["schedule"]
        await one.put("/admin/training-schedule", json=schedule | {"every_s": None})
        theirs = (await other.get("/admin/training-schedule")).json()
        assert theirs["schedule"]["every_s"] is None

        steps = (await other.get("/admin/audit?limit=100")).json()["data"]
        learning = ("samples.", "training.", "predictor.", "schedule.")
        actions = [step["action"] for step in reversed(steps)]
        assert [action for action in actions if action.startswith(learning)] == [
            "samples.imported",
            "training.started",
            "training.started",
            "training.cancelled",
            "training.started",
            "predictor.trained",
            "predictor.activated",
            "predictor.exported",
            "predictor.imported",
            "predictor.activated",
            "predictor.rolled_back",
            "schedule.changed",
        ]
