"""The page of replays: one compares policies on other engines, another one is cancelled."""

from datetime import UTC, datetime
from typing import Any

from playwright.async_api import expect

from tests.browser.conftest import PATIENCE_MS, Site, violations

NEWEST = datetime(2025, 6, 1, 10, tzinfo=UTC)


async def test_a_replay_of_a_window_compares_policies_and_engines(
    site: Site, answered: list[str], page: Any
) -> None:
    assert answered
    site.add_history(400, NEWEST, gap_s=1.0)
    await page.goto("/page/what-if")
    await page.fill("#since", "2025-06-01T09:00")
    await page.fill("#until", "2025-06-01T10:00")
    await page.get_by_label("also with one engine").check()
    await page.get_by_role("button", name="Replay", exact=True).click()
    first = page.locator("#runs section").first
    await expect(first).to_contain_text("running", timeout=PATIENCE_MS)
    await page.get_by_role("button", name="Replay", exact=True).click()
    await expect(page.locator("#notice")).to_contain_text("another replay is running")
    await expect(first).to_contain_text("succeeded", timeout=PATIENCE_MS)
    await expect(first).to_contain_text("2025-06-01 09:00 to 2025-06-01 10:00")
    await expect(first).to_contain_text("400 requests, predictions as recorded")
    rows = [await row.all_inner_texts() for row in [first.locator("tbody tr td:nth-child(-n+2)")]]
    assert rows == [
        [text for engines in "12" for name in ("lmaas", "fcfs", "oracle-lmaas")
         for text in (name, engines)]
    ]  # fmt: skip
    assert await violations(page) == []


async def test_a_replay_that_fails_says_why(page: Any) -> None:
    await page.goto("/page/what-if")
    await page.fill("#since", "2001-01-01T00:00")
    await page.fill("#until", "2001-01-02T00:00")
    await page.get_by_role("button", name="Replay", exact=True).click()
    first = page.locator("#runs section").first
    await expect(first).to_contain_text("failed", timeout=PATIENCE_MS)
    await expect(first.locator(".lines")).to_contain_text("history")
    await page.fill("#until", "")
    await page.get_by_role("button", name="Replay", exact=True).click()
    await expect(page.locator("#notice")).to_contain_text("until: accepted is a time after from")


async def test_a_replay_can_be_cancelled(page: Any) -> None:
    await page.goto("/page/what-if")
    await page.get_by_role("button", name="Replay", exact=True).click()
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.locator("#runs section").first).to_contain_text(
        "cancelled", timeout=PATIENCE_MS
    )
