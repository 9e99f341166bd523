"""Every page of a gateway in front of a server: with it, without it, and without the database.

It is a second gateway on the same host.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from playwright.async_api import expect

from tests.browser.conftest import PATIENCE_MS, Site, launched, sign_in, violations, watched
from tests.browser.test_pages import PAGES, looked_at
from tests.e2e.conftest import ADMIN_KEY, API_KEY, Served
from tests.openai_server import Exchange, OpenAiServer, openai_server

ENGINE, DATABASE = 0, 2  # of the list of parts
# What these pages show is in the database alone.
READ = {"predictor", "requests", "tenants", "keys", "audit"}


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[OpenAiServer]:
    async with openai_server() as server:
        yield server


@pytest.fixture(scope="module")
async def front(
    browser_data: Path, copied_database: Callable[[str], str], server: OpenAiServer
) -> AsyncIterator[Site]:
    """The page of a gateway in front of the server."""
    url = copied_database("browser_front")
    settings = {"DATABASE_URL": url, "LMAAS_UPSTREAM": server.url, "LMAAS_UPSTREAM_MODEL": "model"}
    gateway = await Served(browser_data / "front", **settings).ready()
    async with launched() as browser:
        yield Site(gateway, browser, url)
    assert await gateway.stop() == 0, gateway.errors.read_text()


@asynccontextmanager
async def away(page: Any, number: int) -> AsyncIterator[None]:
    """The page "Now" shows that a part is away; afterwards that it is back."""
    part = page.locator(".parts li").nth(number)
    await page.goto("/page/now")
    await expect(part).not_to_contain_text("connected", timeout=PATIENCE_MS)
    yield
    assert "connected" not in await part.inner_text()


@contextmanager
def without_connections(database_url: str) -> Iterator[None]:
    """The server refuses connections to a database, and has ended those that were open."""
    address, _, options = database_url.partition("?")
    server, _, name = address.rpartition("/")
    with psycopg.connect(f"{server}/postgres?{options}", autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        try:
            yield
        finally:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@pytest.mark.parametrize("name", PAGES)
async def test_every_page_works_in_front_of_a_server(front: Site, name: str) -> None:
    await looked_at(front, PAGES[name], "light")


async def twenty_tokens(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.tokens(*range(100, 120))
    await exchange.end()


async def test_an_answer_of_the_server_is_seen_on_the_pages(
    front: Site, server: OpenAiServer
) -> None:
    server.script.append(twenty_tokens)
    async with watched(await front.context(key=API_KEY)) as page:
        await page.goto("/page/playground")
        await page.fill("#max", "20")
        await page.type("#text", "seven red apples")
        await expect(page.locator("#band")).to_contain_text("tokens", timeout=PATIENCE_MS)
        await page.press("#text", "Enter")
        await expect(page.locator("#past tbody tr")).to_have_count(1, timeout=PATIENCE_MS)
        await expect(page.locator("#progress")).to_contain_text("20 tokens")
        await page.goto("/page/requests")
        while not await page.locator("tbody tr").count():  # it is in the spool first
            await page.reload()
        await page.locator("tbody a").first.click()
        await expect(page.locator(".sentence")).to_contain_text("It ")
        assert await violations(page) == []


async def test_every_page_is_there_while_the_server_is_away(
    front: Site, server: OpenAiServer
) -> None:
    async with watched(await front.context()) as page:
        await server.stop()
        try:
            async with away(page, ENGINE):
                for path in PAGES.values():
                    await looked_at(front, path, "light")
        finally:
            await server.start()
        await expect(page.locator(".parts li").nth(ENGINE)).to_contain_text(
            "connected", timeout=PATIENCE_MS
        )


async def test_pages_without_the_database_say_so_or_do_without(front: Site) -> None:
    async with watched(await front.context()) as page:
        with without_connections(front.database_url):
            async with away(page, DATABASE):
                for name, path in PAGES.items():
                    answer = await page.request.get(path)
                    assert answer.status == (503 if name in READ else 200), name
                    assert ("Not available now" in await answer.text()) == (name in READ), name
        await expect(page.locator(".parts li").nth(DATABASE)).to_contain_text(
            "connected", timeout=PATIENCE_MS
        )
        await page.goto("/page/requests")
        await expect(page.locator("h1")).to_have_text("Requests")


async def test_gateways_on_one_host_keep_their_sessions_apart(site: Site, front: Site) -> None:
    async with watched(await site.context(key=None)) as page:
        await sign_in(page, API_KEY)
        await page.goto(f"{front.url}/page/sign-in")
        await page.fill("#key", ADMIN_KEY)
        await page.press("#key", "Enter")
        await page.wait_for_url(f"{front.url}/page/now")
        await expect(page.locator(".viewer")).to_have_text("admin")
        await page.goto(f"{site.url}/page/now")
        await expect(page.locator(".viewer")).to_have_text("demo / playground")
        await page.get_by_role("button", name="Sign out").click()
        await page.wait_for_url("**/page/sign-in")
        await page.goto(f"{front.url}/page/now")
        await expect(page.locator(".viewer")).to_have_text("admin")
