"""The predictor's page: a training with its progress."""

from typing import Any

from playwright.async_api import expect

from tests.browser.conftest import PATIENCE_MS, violations


async def test_a_training_shows_its_progress_and_its_result(page: Any) -> None:
    await page.goto("/page/predictor")
    await page.get_by_role("button", name="Train a version").focus()
    await page.keyboard.press("Enter")
    state = page.locator("#runs tbody tr").first.locator("td").nth(1)
    await expect(state).to_contain_text("failed", timeout=PATIENCE_MS)
    await expect(page.locator("#runs tbody tr").first).to_contain_text("complete")
    assert await violations(page) == []
