"""Who may see and do what: by the same keys and scopes as in the APIs."""

import re
from urllib.parse import quote

import httpx
import pytest

from gateway.dashboard.access.attempts import MAX_FAILURES
from gateway.dashboard.access.guard import COOKIE, CSRF_HEADER
from tests.browser.conftest import Site
from tests.e2e.conftest import ADMIN_KEY, API_KEY, NO_TLS, asked

HTML = {"accept": "text/html"}
PAGES = ("/page/now", "/page/queue", "/page/predictor", "/page/requests")


async def signed_in(client: httpx.AsyncClient, key: str) -> dict[str, str]:
    """Sign a client in; returns the header that changes need."""
    answer = await client.post("/page/sign-in", data={"key": key})
    assert answer.status_code == 303, answer.text
    (token,) = re.findall(r'x-csrf-token":"([\w-]+)"', (await client.get("/page/now")).text)
    return {CSRF_HEADER: token}


async def scoped(site: Site, *scopes: str) -> str:
    async with site.gateway.admin() as admin:
        body = {"name": "-".join(scopes), "scopes": scopes}
        return str((await admin.post("/admin/scoped-keys", json=body)).json()["secret"])


async def test_clients_of_the_api_get_the_same_answer_at_the_root_as_before(site: Site) -> None:
    async with site.gateway.stranger() as client:
        for method, headers in (("GET", {}), ("GET", {"accept": "*/*"}), ("POST", HTML)):
            answer = await client.request(method, "/", headers=headers)
            assert answer.status_code == 404
            assert answer.json()["error"]["message"] == f"there is no {method} /"


async def test_without_a_session_every_page_leads_to_the_sign_in(site: Site) -> None:
    async with site.gateway.stranger() as client:
        for path in ("/", *PAGES):
            answer = await client.get(path, headers=HTML)
            assert answer.status_code == 303
            assert answer.headers["location"].startswith("/page/sign-in"), path
        shown = "/page/requests?outcome=error&within=24h"
        answer = await client.get(shown, headers=HTML)
        assert answer.headers["location"] == f"/page/sign-in?back={quote(shown)}"
        part = await client.get(
            "/page/batches/rows",
            headers={"hx-request": "true", "hx-current-url": f"{site.url}/page/batches?x=1"},
        )
        assert part.status_code == 401
        assert part.headers["hx-redirect"] == f"/page/sign-in?back={quote('/page/batches?x=1')}"
        stream = await client.get("/page/now/live", headers={"accept": "text/event-stream"})
        assert stream.status_code == 401


async def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(site: Site) -> None:
    async with site.gateway.stranger() as client:
        answer = await client.post("/page/sign-in", data={"key": ADMIN_KEY})
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}_{site.url.rpartition(':')[2]}=")
    assert {"httponly", "samesite=lax"} <= {part.strip().lower() for part in cookie.split(";")}
    assert ADMIN_KEY not in cookie


async def test_the_policy_allows_nothing_inline_and_nothing_from_elsewhere(site: Site) -> None:
    async with site.gateway.stranger() as client:
        answer = await client.get("/page/sign-in", headers=HTML)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["cache-control"] == "no-store"


async def test_a_change_without_the_sessions_token_is_refused(site: Site) -> None:
    async with site.gateway.stranger() as client:
        token = await signed_in(client, ADMIN_KEY)
        for headers in ({}, {CSRF_HEADER: "another"}):
            answer = await client.post("/page/sign-out", headers=headers)
            assert answer.status_code == 403
        assert (await client.post("/page/sign-out", headers=token)).status_code == 204
        assert (await client.get("/page/now")).status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://elsewhere.example"},
        {"origin": "http://["},
        {"sec-fetch-site": "cross-site"},
    ],
)
async def test_a_sign_in_that_another_site_sends_is_refused(
    site: Site, headers: dict[str, str]
) -> None:
    async with site.gateway.stranger() as client:
        answer = await client.post("/page/sign-in", data={"key": ADMIN_KEY}, headers=headers)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_an_apps_key_sees_its_own_tenant_and_cancels_nothing(site: Site) -> None:
    _, other_key = await site.gateway.tenant("another tenant")
    async with site.gateway.admin() as admin, site.gateway.stranger() as client:
        (await admin.post("/admin/engine/drain")).raise_for_status()
        try:
            async with (
                site.gateway.client() as ours,
                ours.chat.completions.with_streaming_response.create(
                    **asked("spell", "hello"), stream=True
                ),
            ):
                waiting = (await admin.get("/admin/queue")).json()["data"]
                name = waiting[0]["id"].replace("-", "")
                token = await signed_in(client, other_key)
                page = (await client.get("/page/queue")).text
                assert f"r{name}" not in page
                own = (await client.get(f"/page/queue?tenant={waiting[0]['tenant_id']}")).text
                assert f"r{name}" not in own
                path = f"/page/queue/{waiting[0]['id']}/cancel"
                assert (await client.post(path, headers=token)).status_code == 403
                client.cookies.clear()
                await signed_in(client, API_KEY)
                assert f"r{name}" in (await client.get("/page/queue")).text
        finally:
            await admin.post("/admin/engine/resume")


async def test_a_scoped_key_sees_what_it_may_read_and_links_to_nothing_else(site: Site) -> None:
    async with site.gateway.stranger() as client:
        token = await signed_in(client, await scoped(site, "predictors"))
        page = (await client.get("/page/now")).text
        assert 'href="/page/queue"' not in page
        assert (await client.get("/page/queue")).status_code == 403
        assert "Last alarms" not in page
        client.cookies.clear()
        token = await signed_in(client, await scoped(site, "read"))
        assert (await client.get("/page/queue")).status_code == 200
        refused = await client.post("/page/queue/x/cancel", headers=token)
        assert refused.status_code == 403


async def test_audit_and_settings_are_for_the_admin_key_alone_and_show_no_secret(
    site: Site,
) -> None:
    async with site.gateway.stranger() as client:
        await signed_in(client, await scoped(site, "read", "tenants"))
        for path in ("/page/audit", "/page/settings"):
            assert (await client.get(path)).status_code == 403
        client.cookies.clear()
        await signed_in(client, ADMIN_KEY)
        page = (await client.get("/page/settings")).text
        assert "LMAAS_KV_TOKENS" in page
        assert ADMIN_KEY not in page
        assert API_KEY not in page
        assert "postgresql" not in page


async def test_a_revoked_key_ends_its_sessions(site: Site) -> None:
    secret = await scoped(site, "engine")
    async with site.gateway.stranger() as client, site.gateway.admin() as admin:
        await signed_in(client, secret)
        keys = (await admin.get("/admin/scoped-keys?name=engine")).json()["data"]
        await admin.delete(f"/admin/scoped-keys/{keys[0]['id']}")
        assert (await client.get("/page/queue")).status_code == 303


async def test_a_proxy_on_the_same_host_is_believed_whose_sign_ins_it_passes_on(
    site: Site,
) -> None:
    async def signed(address: str, **more: str) -> httpx.Response:
        headers = {"x-forwarded-for": address, **more}
        return await client.post("/page/sign-in", data={"key": "wrong-key"}, headers=headers)

    async with site.gateway.stranger() as client:
        answers = [await signed("192.0.2.1") for _ in range(MAX_FAILURES + 1)]
        assert answers[-1].status_code == 429
        assert (await signed("198.51.100.7, 192.0.2.1")).status_code == 429
        assert (await signed("192.0.2.2")).status_code == 401
        secure = await client.post(
            "/page/sign-in", data={"key": ADMIN_KEY}, headers={"x-forwarded-proto": "https"}
        )
    assert "secure" in secure.headers["set-cookie"].lower()


async def test_an_address_that_is_no_trusted_proxy_speaks_for_itself(site: Site) -> None:
    elsewhere = httpx.AsyncHTTPTransport(local_address="127.0.0.3", verify=NO_TLS)
    async with site.gateway.stranger(transport=elsewhere) as client:
        for number in range(MAX_FAILURES + 1):
            answer = await client.post(
                "/page/sign-in",
                data={"key": "wrong-key"},
                headers={"x-forwarded-for": f"192.0.2.{number}"},
            )
    assert answer.status_code == 429


async def test_wrong_keys_are_refused_and_too_many_of_them_stop_the_sign_in(site: Site) -> None:
    elsewhere = httpx.AsyncHTTPTransport(local_address="127.0.0.2", verify=NO_TLS)
    async with site.gateway.stranger(transport=elsewhere) as client:
        tries = range(MAX_FAILURES + 1)
        answers = [await client.post("/page/sign-in", data={"key": "wrong-key"}) for _ in tries]
    assert [answer.status_code for answer in answers] == [401] * MAX_FAILURES + [429]
    assert "unknown or revoked" in answers[0].text
    assert "too many wrong keys" in answers[-1].text
