"""Tenants, apps and keys over HTTP."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from gateway.errors import Unauthenticated
from tests.conftest import Builder

Client = httpx.AsyncClient


async def made(client: Client, path: str, **body: Any) -> dict[str, Any]:
    response = await client.post(path, json=body)
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_created_key_authenticates_its_app(client: Client, build: Builder) -> None:
    tenant = await made(client, "/admin/tenants", name="acme")
    app = await made(
        client, f"/admin/tenants/{tenant['id']}/apps", name="mail", instruction="Be polite."
    )
    key = await made(client, f"/admin/apps/{app['id']}/keys", name="staging")
    caller = await build.authenticator.authenticate(key["secret"])
    assert (caller.tenant, caller.app, caller.instruction) == ("acme", "mail", "Be polite.")


async def test_listed_key_does_not_show_its_secret(client: Client, build: Builder) -> None:
    new = await build.key()
    response = await client.get(f"/admin/apps/{new.key.app_id}/keys")
    (listed,) = response.json()["data"]
    assert listed["prefix"] == new.key.prefix
    assert new.secret not in response.text
    assert new.key.digest.hex() not in response.text


async def test_revoked_key_is_refused_at_once(client: Client, build: Builder) -> None:
    new = await build.key()
    await build.authenticator.authenticate(new.secret)
    response = await client.delete(f"/admin/keys/{new.key.id}")
    assert response.json()["revoked_at"] is not None
    with pytest.raises(Unauthenticated):
        await build.authenticator.authenticate(new.secret)


async def test_pages_follow_each_other_to_the_end(client: Client) -> None:
    names = [f"tenant {n}" for n in range(5)]
    for name in names:
        await made(client, "/admin/tenants", name=name)
    seen: list[str] = []
    query = "?limit=2"
    while query:
        page = (await client.get(f"/admin/tenants{query}")).json()
        assert page["object"] == "list"
        seen += [tenant["name"] for tenant in page["data"]]
        query = f"?limit=2&after={page['data'][-1]['id']}" if page["has_more"] else ""
    assert seen == names


async def test_taken_name_is_a_conflict(client: Client) -> None:
    await made(client, "/admin/tenants", name="acme")
    response = await client.post("/admin/tenants", json={"name": "acme"})
    assert response.status_code == 409
    assert response.json()["error"]["code"] == "conflict"


async def test_app_of_an_unknown_tenant_is_a_404_that_names_it(client: Client) -> None:
    nowhere = uuid4()
    response = await client.post(f"/admin/tenants/{nowhere}/apps", json={"name": "mail"})
    assert response.status_code == 404
    assert str(nowhere) in response.json()["error"]["message"]


async def test_bad_name_and_misspelt_field_are_named(client: Client) -> None:
    bad = await client.post("/admin/tenants", json={"name": " "})
    misspelt = await client.post("/admin/tenants", json={"nmae": "acme"})
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "name")
    assert (misspelt.status_code, misspelt.json()["error"]["param"]) == (400, "nmae")


async def test_page_out_of_bounds_is_refused_with_the_bound(client: Client) -> None:
    response = await client.get("/admin/tenants?limit=101")
    assert response.json()["error"]["message"] == "limit: expected `int` <= 100"


async def test_share_is_one_by_default_and_changes_are_audited(
    client: Client, build: Builder
) -> None:
    tenant = await made(client, "/admin/tenants", name="acme")
    heavy = await made(client, "/admin/tenants", name="heavy", share=4)
    assert (tenant["share"], heavy["share"]) == (1.0, 4.0)
    changed = await client.patch(f"/admin/tenants/{tenant['id']}", json={"share": 2.5})
    assert (changed.status_code, changed.json()["share"]) == (200, 2.5)
    assert changed.json()["learning"] is True
    shown = (await client.get(f"/admin/tenants/{tenant['id']}")).json()
    assert shown["share"] == 2.5
    step, _ = (await client.get("/admin/audit", params={"subject": tenant["id"]})).json()["data"]
    assert (step["action"], step["before"], step["after"]) == (
        "tenant.changed",
        {"share": 1.0},
        {"share": 2.5},
    )
    app = await made(client, f"/admin/tenants/{tenant['id']}/apps", name="mail", share=3)
    key = await made(client, f"/admin/apps/{app['id']}/keys", name="staging")
    caller = await build.authenticator.authenticate(key["secret"])
    assert (caller.share, caller.app_share) == (2.5, 3.0)


async def test_share_of_an_app_is_one_by_default_and_changes_at_once(
    client: Client, build: Builder
) -> None:
    tenant = await made(client, "/admin/tenants", name="acme")
    app = await made(client, f"/admin/tenants/{tenant['id']}/apps", name="mail")
    key = await made(client, f"/admin/apps/{app['id']}/keys", name="staging")
    assert app["share"] == 1.0
    changed = await client.patch(f"/admin/apps/{app['id']}", json={"share": 0.5})
    assert (changed.status_code, changed.json()["share"]) == (200, 0.5)
    caller = await build.authenticator.authenticate(key["secret"])
    assert caller.app_share == 0.5
    refused = await client.patch(f"/admin/apps/{app['id']}", json={"share": 0.001})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "share")
    trail = (await client.get("/admin/audit", params={"subject": app["id"]})).json()["data"]
    assert [step["action"] for step in trail] == ["app.changed", "app.created"]
    assert trail[0]["after"] == {"share": 0.5}


async def test_memory_of_an_app_is_the_device_by_default_and_changes_at_once(
    client: Client, build: Builder
) -> None:
    tenant = await made(client, "/admin/tenants", name="acme")
    app = await made(client, f"/admin/tenants/{tenant['id']}/apps", name="books")
    key = await made(client, f"/admin/apps/{app['id']}/keys", name="staging")
    assert app["memory"] == "device"
    changed = await client.patch(f"/admin/apps/{app['id']}", json={"memory": "host-speculative"})
    assert (changed.status_code, changed.json()["memory"]) == (200, "host-speculative")
    assert (await build.authenticator.authenticate(key["secret"])).memory == "host-speculative"
    refused = await client.patch(f"/admin/apps/{app['id']}", json={"memory": "disk"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "memory")
    trail = (await client.get("/admin/audit", params={"subject": app["id"]})).json()["data"]
    assert trail[0]["after"] == {"memory": "host-speculative"}
    path = f"/admin/tenants/{tenant['id']}/apps"
    exact = await made(client, path, name="archive", memory="host-exact")
    assert exact["memory"] == "host-exact"


@pytest.mark.parametrize("share", [0, -1, 0.009, 100.1, 1e300, "much", True])
async def test_share_out_of_range_is_refused_and_changes_nothing(
    client: Client, build: Builder, share: object
) -> None:
    tenant = await build.tenant()
    made_so = await client.post("/admin/tenants", json={"name": "new", "share": share})
    changed = await client.patch(f"/admin/tenants/{tenant.id}", json={"share": share})
    for response in (made_so, changed):
        assert (response.status_code, response.json()["error"]["param"]) == (400, "share")
    assert (await client.get(f"/admin/tenants/{tenant.id}")).json()["share"] == 1.0


async def test_empty_change_is_refused(client: Client, build: Builder) -> None:
    tenant = await build.tenant()
    response = await client.patch(f"/admin/tenants/{tenant.id}", json={})
    assert response.status_code == 400
    assert "learning and share" in response.json()["error"]["message"]


async def test_lists_can_be_reduced_to_a_name(client: Client, build: Builder) -> None:
    for tenant in ("first", "second"):
        app = await build.app(await build.tenant(tenant), name="mail")
        await build.app(await build.tenant(f"{tenant} too"), name="chat")
        for key in ("laptop", "server"):
            await build.key(app, name=key)

    async def names(path: str, **query: str) -> list[str]:
        page = (await client.get(path, params=query)).raise_for_status().json()
        assert page["has_more"] is False
        return [item["name"] for item in page["data"]]

    assert await names("/admin/tenants", name="second") == ["second"]
    assert await names("/admin/tenants", name="secon") == []
    assert await names(f"/admin/apps/{app.id}/keys", name="server") == ["server"]
    assert await names("/admin/scoped-keys", name="none") == []
    assert await names("/admin/apps", name="mail") == ["mail", "mail"]
    (found,) = (await client.get("/admin/apps?tenant=second&name=mail")).json()["data"]
    assert (found["id"], found["tenant"]) == (str(app.id), "second")
    first = (await client.get("/admin/apps?limit=3")).json()
    rest = (await client.get("/admin/apps", params={"after": first["data"][-1]["id"]})).json()
    assert first["has_more"]
    assert [len(first["data"]), len(rest["data"])] == [3, 1]
    assert (await client.get("/admin/apps?name=%00")).status_code == 400
