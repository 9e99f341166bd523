"""Every page with 10⁵ requests in history."""

from datetime import UTC, datetime
from typing import Any

import pytest
from playwright.async_api import expect

from tests.browser.conftest import Site, violations
from tests.browser.test_pages import PAGES, looked_at

ROWS = 100_000
GAP_S = 0.86  # all within a day


@pytest.fixture(scope="module")
async def long_history(site: Site, answered: list[str]) -> Site:
    """The site with a long history; it stays so."""
    assert answered
    site.add_history(ROWS, datetime.now(UTC), GAP_S)
    return site


@pytest.mark.parametrize("name", PAGES)
async def test_a_page_is_accessible_with_a_long_history(long_history: Site, name: str) -> None:
    await looked_at(long_history, PAGES[name], "light")


async def test_the_predictor_reads_its_newest_answers(long_history: Site, page: Any) -> None:
    assert long_history
    await page.goto("/page/predictor")
    await expect(page.locator(".tiles dd").first).to_contain_text("20.0k")
    assert await page.locator(".cell").count() > 20


async def test_requests_are_found_by_index_and_by_looking_through_them(
    long_history: Site, page: Any
) -> None:
    assert long_history
    await page.goto("/page/requests?user=user+3&outcome=stop")
    await expect(page.locator("tbody tr")).to_have_count(50)
    await page.get_by_role("link", name="Older").click()
    await expect(page.locator("tbody tr")).to_have_count(50)
    assert set(await page.locator("tbody td:nth-child(4)").all_text_contents()) == {"user 3"}
    await page.goto("/page/requests?wait_from=9")
    looked = page.locator(".empty")
    for _ in range(ROWS // 20_000):
        await expect(looked).to_contain_text("None of the newest requests that were looked")
        assert await violations(page) == []
        await page.get_by_role("link", name="Look further back").click()
    await expect(looked).to_contain_text("No finished request matches")


async def test_a_request_of_a_long_history_is_shown(long_history: Site, page: Any) -> None:
    assert long_history
    await page.goto("/page/requests?user=user+5")
    await page.locator("tbody a").first.click()
    await expect(page.locator(".sentence")).to_be_visible()
    assert await violations(page) == []
