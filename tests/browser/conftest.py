"""The page in a real browser: one gateway and one Chromium for all tests.

With `LMAAS_PICTURES` set to a folder, `test_pictures.py` writes pictures there: `make pictures`.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.conftest import PATIENCE_S
from tests.e2e.conftest import ADMIN_KEY, API_KEY, Served, asked

ROOT = Path(__file__).parents[2]
AXE = ROOT / ".venv/node/node_modules/axe-core/axe.min.js"
PICTURES = os.environ.get("LMAAS_PICTURES")
PATIENCE_MS = PATIENCE_S * 1000
SIZES = {"light": (1280, 800), "dark": (1280, 800), "narrow": (390, 780)}
MAX_PICTURE_PX = 1200
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests where there is no browser."""
    here = Path(__file__).parent
    for item in items:
        if CHROMIUM is None and here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="Chromium is not installed"))


# Lengths around their predictions, one every `gap_s` back from `newest`; the ids hold these times.
HISTORY = """
    INSERT INTO requests (
        arrived_at, id, tenant_id, app_id, api_key_id, end_user, model, streamed, prompt_tokens,
        user_input_tokens, max_tokens, temperature, top_p, quantiles, prediction_source,
        feature_version, features, instruction_hash, generation_tokens, finish_reason, censored,
        policy, batch_id, batch_size, preemptions, queued_s, first_token_s, response_s, gateway_id)
    SELECT at,
           (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
            || '7000a' || substr(md5(number::text || random()::text), 1, 15))::uuid,
           apps.tenant_id, apps.id, gen_random_uuid(), 'user ' || number %% 7, 'lmaas-demo', false,
           40, 20, 2048, 1, 1, ARRAY[m * 0.4, m * 0.7, m, m * 1.5, m * 2.2, m * 3], 'model', 0,
           '', '', greatest(1, round(m * exp(0.6 * (random() + random() + random() - 1.5) * 2))),
           'stop', false, 'lmaas', number::text, 1, 0, random(), 1 + random(), 2 + random(),
           %(gateway)s
    FROM (SELECT number, %(newest)s - number * %(gap_s)s * interval '1 second' AS at,
                 exp(ln(12) + 4 * random()) AS m
          FROM generate_series(1, %(rows)s) AS number) AS drawn,
         LATERAL (SELECT id, tenant_id FROM apps ORDER BY id LIMIT 1 OFFSET number %% 3) AS apps
"""
ENGINE_COST = """
    INSERT INTO engine_costs (
        gateway_id, model, device, dtype, measured_at, steps, error, step_s, prompt_token_s,
        prompt_read_s, sequence_s, kv_token_s, pages, page_tokens, context_tokens)
    VALUES (%s, 'lmaas-demo', 'cpu', 'float32', now(), 900, 0.05, 0.004, 0.0001, 0, 0.001, 0, 256,
            16, 4096)
"""


class Site:
    """The gateway's page in the browser."""

    def __init__(self, gateway: Served, browser: Browser, database_url: str) -> None:
        self.gateway = gateway
        self.url = gateway.url
        self.database_url = database_url
        self._browser = browser
        self._signed_in: dict[str, Any] = {}

    async def context(self, look: str = "light", *, key: str | None = ADMIN_KEY) -> BrowserContext:
        """A browser window; signed in with a key, once for all windows."""
        width, height = SIZES[look]
        context = await self._browser.new_context(
            base_url=self.url,
            viewport={"width": width, "height": height},
            color_scheme="dark" if look == "dark" else "light",
            storage_state=None if key is None else await self._state(key),
            reduced_motion="reduce",
        )
        context.set_default_timeout(PATIENCE_MS)
        return context

    async def _state(self, key: str) -> Any:
        if key not in self._signed_in:
            context = await self._browser.new_context(base_url=self.url)
            page = await context.new_page()
            await sign_in(page, key)
            self._signed_in[key] = await context.storage_state()
            await context.close()
        return self._signed_in[key]

    def add_history(self, rows: int, newest: datetime, gap_s: float) -> None:
        """Insert requests of the first three apps, and the measured engine that served them."""
        gateway = uuid4()
        drawn = {"rows": rows, "newest": newest, "gap_s": gap_s, "gateway": gateway}
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(HISTORY, drawn)
            connection.execute(ENGINE_COST, [gateway])
            connection.execute("ANALYZE requests")


async def sign_in(page: Page, key: str) -> None:
    await page.goto("/page/sign-in")
    await page.fill("#key", key)
    await page.press("#key", "Enter")
    await page.wait_for_url("**/page/now")


@asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
    """Chromium, driven by Playwright."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
def browser_data() -> Iterator[Path]:
    """The gateway's data folder; its path is short enough for sockets."""
    root = Path(tempfile.mkdtemp(prefix="lmaas-page-"))
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
async def site(browser_data: Path, copied_database: Callable[[str], str]) -> AsyncIterator[Site]:
    """A gateway that has answered some requests, and a browser."""
    url = copied_database("browser")
    settings = {"DATABASE_URL": url, "LMAAS_KV_TOKENS": "4096"}
    gateway = await Served(browser_data / "gateway", **settings).ready()
    async with launched() as browser:
        yield Site(gateway, browser, url)
    assert await gateway.stop() == 0, gateway.errors.read_text()


@pytest.fixture(scope="session")
async def answered(site: Site) -> list[str]:
    """The ids of requests that the gateway has answered, and that history has."""
    async with site.gateway.client() as client:
        answers = await asyncio.gather(
            *(
                client.chat.completions.create(**asked(job, "seven red apples", user=user))
                for job in ("translate", "spell")
                for user in ("ann", "<b>bob</b>")
                for _ in range(4)
            )
        )
    async with site.gateway.admin() as admin, asyncio.timeout(PATIENCE_S):
        while len((await admin.get("/admin/requests")).json()["data"]) < len(answers):
            await asyncio.sleep(0.05)
    return [answer.id for answer in answers]


@pytest.fixture
async def page(site: Site) -> AsyncIterator[Page]:
    """A page of a signed-in administrator, in which no script fails."""
    context = await site.context()
    async with watched(context) as opened:
        yield opened


class watched:  # noqa: N801  used as a function
    """A new page of a context; at the end no script has failed, and nothing was blocked."""

    def __init__(self, context: BrowserContext) -> None:
        self._context = context
        self._failures: list[str] = []

    async def __aenter__(self) -> Page:
        page = await self._context.new_page()
        page.on("pageerror", lambda error: self._failures.append(str(error)))
        page.on("console", self._note)
        return page

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self._context.close()
        if kind is None:
            assert self._failures == []

    def _note(self, message: Any) -> None:
        if "Content Security Policy" in message.text:
            self._failures.append(message.text)


@pytest.fixture(scope="session")
def app_key() -> str:
    return API_KEY


async def violations(page: Page) -> list[str]:
    """What axe finds, of the rules of WCAG 2 A and AA and of good practice."""
    if not AXE.exists():
        pytest.skip("axe-core is not installed: it comes with npm")
    await page.evaluate(AXE.read_text())
    found = await page.evaluate("() => axe.run()")
    return [
        f"{each['id']}: {each['nodes'][0]['html']} {each['nodes'][0].get('failureSummary', '')}"
        for each in found["violations"]
    ]


async def picture(page: Page, name: str) -> None:
    """Write a picture of the page, its upper part if it is long, if pictures are asked for."""
    if PICTURES:
        height = await page.evaluate("document.documentElement.scrollHeight")
        size = page.viewport_size
        assert size is not None
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(height, MAX_PICTURE_PX)}
        await page.screenshot(path=Path(PICTURES) / f"page-{name}.png", full_page=True, clip=clip)
