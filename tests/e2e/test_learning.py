"""Training on served requests improves the predictor."""

import asyncio
from random import Random
from statistics import mean
from typing import Any

import httpx
import openai

from engine.demo.jobs import JOBS
from tests.conftest import PATIENCE_S

CONCURRENT = 24


class App:
    """A demo app with its registered instruction and its own key."""

    def __init__(self, job: Any, client: openai.AsyncOpenAI) -> None:
        self.job = job
        self.client = client

    async def ask(self, rng: Random) -> tuple[int, int]:
        """Predicted and actual tokens of one request."""
        body: dict[str, Any] = {
            "model": "lmaas-demo",
            "temperature": 1.0 if self.job.open else 0.0,
            "messages": [{"role": "user", "content": self.job.draw(rng).question}],
        }
        predicted = await self.client.post(
            "/length-predictions", body=body, cast_to=dict[str, Any]
        )  # which waits for the model: an answer may end before
        usage = (await self.client.chat.completions.create(**body)).usage
        assert usage is not None
        return int(predicted["predicted_tokens"]), usage.completion_tokens


async def make_apps(served: Any, admin: httpx.AsyncClient) -> list[App]:
    tenant = (await admin.post("/admin/tenants", json={"name": "learners"})).json()
    apps = []
    for job in JOBS:
        body = {"name": job.name, "instruction": job.instructions[0]}
        app = (await admin.post(f"/admin/tenants/{tenant['id']}/apps", json=body)).json()
        key = (await admin.post(f"/admin/apps/{app['id']}/keys", json={"name": "test"})).json()
        apps.append(App(job, served.client(key["secret"])))
    return apps


async def mean_error(apps: list[App], requests: int, seed: int) -> float:
    """Mean absolute error of the predicted tokens, over mixed traffic of all apps.

    The open app is left out: the lengths of its answers cannot be predicted.
    """
    rng = Random(seed)
    slots = asyncio.Semaphore(CONCURRENT)

    async def absolute_error(app: App) -> int | None:
        async with slots:
            predicted, actual = await app.ask(rng)
        return None if app.job.open else abs(predicted - actual)

    errors = await asyncio.gather(*(absolute_error(rng.choice(apps)) for _ in range(requests)))
    return mean(each for each in errors if each is not None)


async def test_training_on_served_requests_halves_the_error(served: Any) -> None:
    async with served.admin() as admin:
        apps = await make_apps(served, admin)
        before = await mean_error(apps, 300, seed=1)
        started = await admin.post("/admin/predictors")
        assert started.status_code == 202
        run = started.json()
        async with asyncio.timeout(PATIENCE_S):
            while run["state"] not in ("succeeded", "failed"):
                await asyncio.sleep(0.2)
                run = (await admin.get(f"/admin/training-runs/{run['id']}")).json()
            assert run["state"] == "succeeded", run["error"]
            version = (await admin.get(f"/admin/predictors/{run['predictor_id']}")).json()
            assert version["state"] == "active", version["metrics"]
            while (await served.health())["predictor_version"] != version["id"]:
                await asyncio.sleep(0.05)
        after = await mean_error(apps, 100, seed=2)
        for app in apps:
            await app.client.close()
    assert after < before / 2, f"{before:.1f} tokens before, {after:.1f} after"
