"""The playground: an answer is predicted, streamed, and compared with its prediction."""

from typing import Any

from playwright.async_api import expect

from tests.browser.conftest import PATIENCE_MS, Site, violations, watched
from tests.e2e.conftest import API_KEY


async def test_an_answer_is_predicted_before_it_comes_and_measured_when_it_came(
    site: Site, answered: list[str]
) -> None:
    assert answered
    context = await site.context(key=API_KEY)
    async with watched(context) as page:
        await page.goto("/page/playground")
        await page.fill("#system", "Spell out every word.")
        await page.type("#text", "seven <b>red</b> apples")
        await expect(page.locator("#band")).to_contain_text("tokens", timeout=PATIENCE_MS)
        await expect(page.locator("#end")).not_to_have_text("–")
        await page.press("#text", "Enter")
        await expect(page.locator("#past tbody tr")).to_have_count(1, timeout=PATIENCE_MS)
        await expect(page.locator(".turn.user p")).to_have_text("seven <b>red</b> apples")
        await expect(page.locator(".turn.model p")).not_to_be_empty()
        await expect(page.locator("#progress")).to_contain_text("complete")
        assert await violations(page) == []


async def test_an_administrator_chats_with_the_key_of_an_app(page: Any) -> None:
    await page.goto("/page/playground")
    await page.fill("#key", "wrong-key")
    await page.press("#key", "Enter")
    await expect(page.locator("#notice")).to_contain_text("not the key of an app")
    assert await violations(page) == []
    await page.fill("#key", API_KEY)
    await page.press("#key", "Enter")
    await expect(page.locator("#text")).to_be_visible(timeout=PATIENCE_MS)


async def test_errors_of_the_model_are_shown(site: Site) -> None:
    context = await site.context(key=API_KEY)
    async with watched(context) as page:
        await page.goto("/page/playground")
        await page.fill("#text", "word " * 9_000)
        await page.press("#text", "Enter")
        await expect(page.locator("#progress")).to_contain_text("context", timeout=PATIENCE_MS)
