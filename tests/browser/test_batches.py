"""The page of batches: progress without a reload, and the answers as a file."""

import json

from playwright.async_api import expect

from tests.browser.conftest import PATIENCE_MS, Site, violations, watched
from tests.browser.test_rights import signed_in
from tests.e2e.conftest import ADMIN_KEY, API_KEY, asked


async def test_a_batch_is_seen_to_its_end_and_its_answers_can_be_read(site: Site) -> None:
    lines = [
        {"custom_id": f"<i>{n}</i>", "method": "POST", "url": "/v1/chat/completions",
         "body": asked("spell", "seven red apples")}
        for n in range(3)
    ]  # fmt: skip
    context = await site.context(key=API_KEY)
    async with watched(context) as page, site.gateway.client() as client:
        await page.goto("/page/batches")
        await expect(page.locator(".empty")).to_contain_text("no batch")
        assert await violations(page) == []
        content = "\n".join(map(json.dumps, lines)).encode()
        file = await client.files.create(file=("lines.jsonl", content), purpose="batch")
        await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        row = page.locator("tbody tr").first
        await expect(row).to_contain_text("completed", timeout=PATIENCE_MS)
        await expect(row).to_contain_text("3 of 3")
        assert await violations(page) == []
        address = await page.get_by_role("link", name="answers").get_attribute("href")
        answers = (await (await page.request.get(address)).text()).splitlines()
        assert {json.loads(each)["custom_id"] for each in answers} == {
            line["custom_id"] for line in lines
        }
    _, other_key = await site.gateway.tenant("tenant without batches")
    async with site.gateway.stranger() as other:
        await signed_in(other, other_key)
        assert (await other.get(address)).status_code == 404
        other.cookies.clear()
        await signed_in(other, ADMIN_KEY)
        assert 'href="/page/batches"' not in (await other.get("/page/now")).text
        assert (await other.get("/page/batches")).status_code == 403
