"""The predictor's page, with 10⁵ requests in history, and a training with its progress."""

from typing import Any

from playwright.async_api import expect

from tests.browser.conftest import PATIENCE_MS, Site, violations

ROWS = 100_000
# Lengths around their predictions, over the last day.
INSERT = """
    INSERT INTO requests (
        arrived_at, id, tenant_id, app_id, api_key_id, end_user, model, streamed, prompt_tokens,
        user_input_tokens, max_tokens, temperature, top_p, quantiles, prediction_source,
        feature_version, features, instruction_hash, generation_tokens, finish_reason, censored,
        policy, batch_id, batch_size, preemptions, queued_s, first_token_s, response_s)
    SELECT now() - (number || ' milliseconds')::interval * 860, gen_random_uuid(), apps.tenant_id,
           apps.id, gen_random_uuid(), 'user ' || number %% 7, 'lmaas-demo', false, 40, 20, 2048,
           1, 1, ARRAY[m * 0.4, m * 0.7, m, m * 1.5, m * 2.2, m * 3], 'model', 0, '', '',
           greatest(1, round(m * exp(0.6 * (random() + random() + random() - 1.5) * 2))), 'stop',
           false, 'lmaas', number::text, 1, 0, random(), 1 + random(), 2 + random()
    FROM (SELECT number, exp(ln(12) + 4 * random()) AS m FROM generate_series(1, %s) AS number)
         AS drawn,
         LATERAL (SELECT id, tenant_id FROM apps ORDER BY id LIMIT 1 OFFSET number %% 3) AS apps
"""


async def test_a_training_shows_its_progress_and_its_result(page: Any) -> None:
    await page.goto("/page/predictor")
    await page.get_by_role("button", name="Train a version").focus()
    await page.keyboard.press("Enter")
    state = page.locator("#runs tbody tr").first.locator("td").nth(1)
    await expect(state).to_contain_text("failed", timeout=PATIENCE_MS)
    await expect(page.locator("#runs tbody tr").first).to_contain_text("complete")
    assert await violations(page) == []


async def test_pages_show_a_history_of_a_hundred_thousand_requests(
    site: Site, answered: list[str], page: Any
) -> None:
    assert answered
    site.execute(INSERT, ROWS)
    site.execute("ANALYZE requests")
    await page.goto("/page/predictor")
    await expect(page.locator(".tiles dd").first).to_contain_text("20.0k")
    assert await page.locator(".cell").count() > 20
    assert await violations(page) == []
    await page.goto("/page/requests?user=user+3&outcome=stop")
    await expect(page.locator("tbody tr")).to_have_count(50)
    await page.get_by_role("link", name="Older").click()
    await expect(page.locator("tbody tr")).to_have_count(50)
    assert set(await page.locator("tbody td:nth-child(4)").all_text_contents()) == {"user 3"}
