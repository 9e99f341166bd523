"""The page of replays: one compares policies, another one is cancelled."""

from typing import Any

from playwright.async_api import expect

from tests.browser.conftest import PATIENCE_MS, violations


async def test_a_replay_of_the_history_compares_policies(answered: list[str], page: Any) -> None:
    assert answered
    await page.goto("/page/what-if")
    await page.get_by_role("button", name="Replay").click()
    first = page.locator("#replay-1")
    await expect(first).to_contain_text("running", timeout=PATIENCE_MS)
    await page.get_by_role("button", name="Replay", exact=True).click()
    await expect(page.locator("#notice")).to_contain_text("another replay is running")
    await expect(first).not_to_contain_text("running", timeout=PATIENCE_MS)
    assert await violations(page) == []
    state = await first.text_content()
    # An engine is measured after some hundred steps: before, a replay says so and fails.
    assert "succeeded" in state or "measured" in state


async def test_a_replay_can_be_cancelled(page: Any) -> None:
    await page.goto("/page/what-if")
    await page.get_by_role("button", name="Replay", exact=True).click()
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.locator("#runs section").first).to_contain_text(
        "cancelled", timeout=PATIENCE_MS
    )
