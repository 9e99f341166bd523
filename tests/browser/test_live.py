"""Live views in the browser: what happens appears without a reload."""

import asyncio
from typing import Any

import httpx
import openai
import pytest
from playwright.async_api import expect

from tests.browser.conftest import PATIENCE_MS, Site, violations
from tests.conftest import PATIENCE_S
from tests.e2e.conftest import asked

HOSTILE = "<img src=x onerror=alert(1)>"


async def held_request(admin: Any, client: Any) -> tuple[asyncio.Task[Any], str]:
    """A request that waits, as the engine is held; and its id."""
    (await admin.post("/admin/engine/drain")).raise_for_status()
    wanted = asked("diary", f"Write about {HOSTILE}.", user=HOSTILE)
    sent = asyncio.create_task(client.chat.completions.create(**wanted))
    async with asyncio.timeout(PATIENCE_S):
        while not (waiting := (await admin.get("/admin/queue")).json()["data"]):
            await asyncio.sleep(0.02)
    return sent, waiting[0]["id"]


async def audited(admin: httpx.AsyncClient) -> set[tuple[str, str]]:
    """The newest actions of the audit trail, with their subjects."""
    trail = (await admin.get("/admin/audit")).json()["data"]
    return {(entry["action"], entry["subject"]) for entry in trail}


async def test_a_request_appears_in_the_queue_and_can_be_cancelled(site: Site, page: Any) -> None:
    await page.goto("/page/queue")
    await expect(page.locator(".empty")).to_be_visible(timeout=PATIENCE_MS)
    async with site.gateway.admin() as admin, site.gateway.client() as client:
        try:
            sent, name = await held_request(admin, client)
            row = page.locator(f"#r{name.replace('-', '')}")
            await expect(row).to_be_visible(timeout=PATIENCE_MS)
            assert await violations(page) == []
            await row.get_by_role("button").focus()
            await page.keyboard.press("Enter")
            await expect(row).to_have_count(0, timeout=PATIENCE_MS)
            with pytest.raises(openai.ConflictError, match="cancelled"):
                await sent
            async with asyncio.timeout(PATIENCE_S):  # it is audited after the client has its error
                while ("request.cancelled", name) not in await audited(admin):
                    await asyncio.sleep(0.05)
        finally:
            await admin.post("/admin/engine/resume")


async def test_the_numbers_of_the_page_move_while_requests_run(site: Site, page: Any) -> None:
    await page.goto("/page/now")
    await expect(page.locator(".live")).to_have_text("live", timeout=PATIENCE_MS)
    before = await page.locator(".chart").first.get_attribute("data-chart")
    async with site.gateway.client() as client:
        await client.chat.completions.create(**asked("translate", "seven red apples"))
    await page.wait_for_function(
        "before => document.querySelector('.chart').dataset.chart !== before",
        arg=before,
        timeout=PATIENCE_MS,
    )


async def test_an_engine_that_is_down_is_shown_and_its_return(site: Site, page: Any) -> None:
    await page.goto("/page/now")
    engine = page.locator(".parts li").first
    await expect(engine).to_contain_text("connected", timeout=PATIENCE_MS)
    site.gateway.engine().kill()
    await expect(engine).not_to_contain_text("connected", timeout=PATIENCE_MS)
    assert await violations(page) == []
    for path in ("/page/now", "/page/queue"):
        assert (await page.request.get(path)).status == 200
    await page.reload()
    await expect(engine).to_contain_text("connected", timeout=PATIENCE_MS)
    await site.gateway.idle()
