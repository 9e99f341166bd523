"""The pages of finished requests and of one of them."""

import csv
import io
from typing import Any

from playwright.async_api import expect

from tests.browser.conftest import PATIENCE_MS, Site, violations
from tests.browser.test_rights import signed_in
from tests.e2e.conftest import ADMIN_KEY, API_KEY


async def test_a_request_is_found_by_the_id_of_its_answer(answered: list[str], page: Any) -> None:
    await page.goto(f"/page/requests/{answered[0]}")
    await expect(page.locator(".sentence")).to_contain_text("It ")
    assert await page.locator(".span").count() == 4
    assert await violations(page) == []


async def test_the_log_names_the_page_of_a_request(site: Site, answered: list[str]) -> None:
    name = answered[0].removeprefix("chatcmpl-")
    events = [line for line in site.gateway.errors.read_text().splitlines() if "/page/req" in line]
    assert any(name in event.replace("-", "") for event in events)


async def test_users_are_shown_as_text_and_filtered(answered: list[str], page: Any) -> None:
    assert answered
    await page.goto("/page/requests")
    await page.fill("#user", "<b>bob</b>")
    await page.keyboard.press("Enter")
    users = page.locator("tbody td:nth-child(4)")
    await expect(users.first).to_have_text("<b>bob</b>", timeout=PATIENCE_MS)
    assert set(await users.all_text_contents()) == {"<b>bob</b>"}
    await page.fill("#user", "no one")
    await page.keyboard.press("Enter")
    await expect(page.locator(".empty")).to_contain_text("No finished request matches")


async def test_lengths_and_waits_filter_the_list_and_its_csv(
    site: Site, answered: list[str], page: Any
) -> None:
    assert answered
    await page.goto("/page/requests?user=ann")
    lengths = [
        text.split(" of ")[0] for text in await page.locator("tbody td.length").all_inner_texts()
    ]
    longest = max(map(int, lengths))
    await page.fill("#tokens_from", str(longest))
    await page.fill("#wait_from", "0")
    await page.keyboard.press("Enter")
    rows = page.locator("tbody tr")
    await expect(rows).to_have_count(lengths.count(str(longest)), timeout=PATIENCE_MS)
    assert await violations(page) == []
    async with site.gateway.stranger() as client:
        await signed_in(client, ADMIN_KEY)
        address = await page.get_by_role("link", name="Download").get_attribute("href")
        answer = await client.get(address)
    found = list(csv.DictReader(io.StringIO(answer.text)))
    assert [int(row["generation_tokens"]) for row in found] == [longest] * await rows.count()
    await page.get_by_role("link", name="waited 10 s or more").click()
    await expect(page.get_by_role("link", name="waited 10 s or more")).to_have_attribute(
        "aria-current", "true"
    )
    assert await page.input_value("#wait_from") == "10"


async def test_csv_has_the_filtered_rows_and_no_formula(site: Site, answered: list[str]) -> None:
    async with site.gateway.client() as client:
        await client.chat.completions.create(
            model="lmaas-demo",
            messages=[{"role": "user", "content": "hello"}],
            max_tokens=1,
            user="=1+1",
        )
    async with site.gateway.stranger() as client:
        await signed_in(client, ADMIN_KEY)
        answer = await client.get("/page/requests/csv?user=ann")
        assert answer.headers["content-type"].startswith("text/csv")
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert len(rows) == len(answered) / 2
        while not (made := (await client.get("/page/requests/csv?user==1%2B1")).text.split()[1:]):
            pass
        assert "'=1+1" in made[0]


async def test_an_apps_key_sees_its_own_requests_alone(site: Site, answered: list[str]) -> None:
    _, other_key = await site.gateway.tenant("tenant without requests")
    async with site.gateway.stranger() as client:
        await signed_in(client, other_key)
        assert "No request has finished yet" in (await client.get("/page/requests")).text
        assert (await client.get(f"/page/requests/{answered[0]}")).status_code == 404
        assert "ann" not in (await client.get("/page/requests/csv?tenant=demo")).text
        client.cookies.clear()
        await signed_in(client, API_KEY)
        assert (await client.get(f"/page/requests/{answered[0]}")).status_code == 200
        assert "ann" in (await client.get("/page/requests")).text


async def test_wrong_filters_are_named(site: Site) -> None:
    async with site.gateway.stranger() as client:
        await signed_in(client, ADMIN_KEY)
        for query, named in (("since=soon", "since"), ("tokens_to=-1", "tokens_to")):
            answer = await client.get(f"/page/requests?{query}")
            assert answer.status_code == 400
            assert named in answer.text
        assert (await client.get("/page/requests/not-an-id")).status_code == 404
