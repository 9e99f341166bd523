"""Every page, empty and with data, in both themes and on a narrow screen: axe finds nothing."""

from typing import Any

import pytest
from playwright.async_api import expect

from tests.browser.conftest import SIZES, Site, violations, watched

PAGES = {
    "now": "/page/now",
    "queue": "/page/queue",
    "predictor": "/page/predictor",
    "requests": "/page/requests",
    "tenants": "/page/tenants",
    "what-if": "/page/what-if",
    "keys": "/page/keys",
    "audit": "/page/audit",
    "settings": "/page/settings",
    "playground": "/page/playground",
}


async def looked_at(site: Site, path: str, look: str) -> None:
    """Open a page, and check it with axe."""
    context = await site.context(look)
    async with watched(context) as page:
        response = await page.goto(path)
        assert response is not None
        assert response.status == 200
        wide = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{path} is {wide} px too wide"
        assert await violations(page) == []


@pytest.mark.parametrize("name", PAGES)
async def test_a_page_is_accessible_before_the_first_request(site: Site, name: str) -> None:
    await looked_at(site, PAGES[name], "light")


@pytest.mark.parametrize("look", SIZES)
@pytest.mark.parametrize("name", PAGES)
async def test_a_page_is_accessible_with_data(
    site: Site, answered: list[str], name: str, look: str
) -> None:
    assert answered
    await looked_at(site, PAGES[name], look)


@pytest.mark.parametrize("look", SIZES)
async def test_the_sign_in_is_accessible(site: Site, look: str) -> None:
    context = await site.context(look, key=None)
    async with watched(context) as page:
        await page.goto("/")
        assert await violations(page) == []


async def test_the_theme_can_be_switched_and_is_kept(page: Any) -> None:
    await page.goto("/page/now")
    light = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    await page.click("[data-theme-switch]")
    dark = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    await page.goto("/page/queue")
    assert dark != light
    assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


async def test_the_link_of_the_page_is_in_sight_on_a_narrow_screen(site: Site) -> None:
    async with watched(await site.context("narrow")) as page:
        await page.goto("/page/settings")
        await expect(page.locator("nav a[aria-current='page']")).to_be_in_viewport(ratio=1)


async def test_every_page_is_reached_by_the_keyboard(page: Any) -> None:
    await page.goto("/page/now")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.textContent") == "Skip to the content"
    reached = set[str]()
    for _ in range(20 + len(PAGES)):
        await page.keyboard.press("Tab")
        reached.add(await page.evaluate("document.activeElement.getAttribute('href')"))
    assert set(PAGES.values()) <= reached
    await page.focus("nav a[href='/page/queue']")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/page/queue")
