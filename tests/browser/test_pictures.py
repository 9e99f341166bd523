"""Takes the pictures of docs/pictures, of a gateway under load: `make pictures`.

The model is that of `LMAAS_MODEL`, SmolLM2 for those in the repository.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
from playwright.async_api import expect

from tests.browser.conftest import PATIENCE_MS, PICTURES, Site, launched, picture, watched
from tests.conftest import PATIENCE_S
from tests.e2e.conftest import API_KEY, Served

MODEL = os.environ.get("LMAAS_MODEL")
BEFORE_TRAINING = 220  # requests
BUSY_S = 75.0
RATE = 3.0  # requests a second, more than two cores serve

pytestmark = pytest.mark.skipif(not PICTURES or not MODEL, reason="no pictures are asked for")


class App(NamedTuple):
    tenant: str
    name: str
    instruction: str
    tokens: tuple[int, int]


APPS = (
    App("acme", "support", "You are a helpful support agent. Answer in detail.", (150, 300)),
    App("acme", "summaries", "Summarise in one sentence.", (40, 80)),
    App("globex", "titles", "Give a title of three words.", (10, 20)),
    App("globex", "stories", "Write a short story.", (250, 400)),
)
TEXTS = (
    "How do I grow tomatoes on a balcony?",
    "Explain why the sky is blue.",
    "The meeting moved to Tuesday, and the room is now on the third floor, next to the kitchen.",
    "A ship in a storm.",
    "What is the capital of France?",
    "Name the planets, and say a word about each of them.",
)


@pytest.fixture(scope="module")
async def busy(browser_data: Path, copied_database: Callable[[str], str]) -> AsyncIterator[Site]:
    """A gateway that serves a model that knows English."""
    settings = {
        "LMAAS_MODEL": MODEL or "",
        "LMAAS_MODEL_NAME": "smollm2",
        "LMAAS_KV_TOKENS": "6144",
        "LMAAS_EMBEDDER": "",
        "DATABASE_URL": copied_database("pictures"),
    }
    gateway = await Served(browser_data / "busy", **settings).ready()
    async with launched() as browser:
        yield Site(gateway, browser, settings["DATABASE_URL"])
    assert await gateway.stop() == 0, gateway.errors.read_text()


async def app_keys(site: Site) -> list[tuple[App, str]]:
    """The apps, and a key of each."""
    keys, tenants = [], dict[str, str]()
    async with site.gateway.admin() as admin:

        async def made(path: str, name: str) -> dict[str, Any]:
            return dict((await admin.post(path, json={"name": name})).raise_for_status().json())

        for app in APPS:
            if app.tenant not in tenants:
                tenants[app.tenant] = (await made("/admin/tenants", app.tenant))["id"]
            owner = await made(f"/admin/tenants/{tenants[app.tenant]}/apps", app.name)
            keys.append((app, (await made(f"/admin/apps/{owner['id']}/keys", "key"))["secret"]))
    return keys


async def send(client: openai.AsyncOpenAI, keys: list[tuple[App, str]]) -> None:
    app, key = random.choice(keys)
    await client.with_options(api_key=key).chat.completions.create(
        model="smollm2",
        max_tokens=random.randint(*app.tokens),
        temperature=0.7,
        user=random.choice(("ann", "bob", "eve")),
        messages=[
            {"role": "system", "content": app.instruction},
            {"role": "user", "content": random.choice(TEXTS)},
        ],
    )


@asynccontextmanager
async def load(site: Site, keys: list[tuple[App, str]]) -> AsyncIterator[None]:
    """Requests arrive at random times."""
    async with site.gateway.client() as client, asyncio.TaskGroup() as group:

        async def arrive() -> None:
            while True:
                group.create_task(send(client, keys))
                await asyncio.sleep(random.expovariate(RATE))

        arriving = asyncio.create_task(arrive())
        yield
        arriving.cancel()


async def take(site: Site, path: str, name: str, looks: tuple[str, ...] = ("light",)) -> None:
    for look in looks:
        async with watched(await site.context(look)) as page:
            await page.goto(path)
            await asyncio.sleep(2)
            await picture(page, name if look == "light" else f"{name}-{look}")


async def trained(site: Site) -> None:
    async with site.gateway.admin() as admin, asyncio.timeout(PATIENCE_S):
        run = (await admin.post("/admin/predictors", json={})).raise_for_status().json()
        path = f"/admin/training-runs/{run['id']}"
        while not (found := (await admin.get(path)).json())["finished_at"]:
            await asyncio.sleep(1)
    assert found["state"] == "succeeded", found


async def test_pictures_of_a_busy_gateway(busy: Site) -> None:
    random.seed(7)
    keys = await app_keys(busy)
    slots = asyncio.Semaphore(24)
    async with busy.gateway.client() as client:

        async def one() -> None:
            async with slots:
                await send(client, keys)

        await asyncio.gather(*(one() for _ in range(BEFORE_TRAINING)))
    await trained(busy)
    async with load(busy, keys):
        await asyncio.sleep(BUSY_S)
        looks = ("light", "dark", "narrow")
        await take(busy, "/page/now", "now", looks)
        await take(busy, "/page/queue", "queue")
        await take(busy, "/page/predictor?hours=1", "predictor")
    async with busy.gateway.admin() as admin:
        rows = (await admin.get("/admin/requests?limit=100")).json()["data"]
    longest = max(rows, key=lambda row: row["waited_s"])
    await take(busy, f"/page/requests/{longest['id']}", "request")
    async with watched(await busy.context(key=API_KEY)) as page:
        await page.goto("/page/playground")
        await page.fill("#max", "300")
        for number, text in enumerate(("What is the capital of France?", "Write a story."), 1):
            await page.type("#text", text)
            await expect(page.locator("#band")).to_contain_text("tokens", timeout=PATIENCE_MS)
            await page.press("#text", "Enter")
            await expect(page.locator("#past tbody tr")).to_have_count(number, timeout=PATIENCE_MS)
        await picture(page, "playground")
