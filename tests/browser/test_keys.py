"""The page of keys: a key is made, works, is rotated and revoked."""

from typing import Any

import httpx
from playwright.async_api import Dialog, expect

from tests.browser.conftest import PATIENCE_MS, Site, violations


async def accepted(site: Site, secret: str) -> bool:
    async with site.gateway.stranger() as client:
        answer = await client.get("/v1/models", headers={"authorization": f"Bearer {secret}"})
    return answer.status_code == httpx.codes.OK


async def test_a_key_is_made_rotated_and_revoked(site: Site, page: Any) -> None:
    async def accept(dialog: Dialog) -> None:
        await dialog.accept()

    page.on("dialog", accept)
    await page.goto("/page/keys")
    await page.get_by_role("button", name="demo / playground").click()
    await page.fill("#name", "<i>laptop</i>")
    await page.keyboard.press("Enter")
    shown = page.locator(".secret code")
    await expect(shown).to_be_visible(timeout=PATIENCE_MS)
    first = await shown.text_content()
    assert await accepted(site, first)
    assert await violations(page) == []
    await page.get_by_role("button", name="Rotate <i>laptop</i>").click()
    await expect(page.locator("#notice")).to_be_empty()
    await expect(shown).not_to_have_text(first, timeout=PATIENCE_MS)
    second = await shown.text_content()
    assert await accepted(site, first)
    assert await accepted(site, second)
    await page.get_by_role("button", name="Revoke <i>laptop</i>").first.click()
    await expect(page.locator("#keys")).to_contain_text("revoked", timeout=PATIENCE_MS)
    assert [await accepted(site, each) for each in (first, second)] == [False, True]
