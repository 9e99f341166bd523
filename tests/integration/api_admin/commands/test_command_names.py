"""Names instead of ids on the command line, tables, and the next step."""

import asyncio
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.cli.admin.client import AdminClient
from gateway.cli.admin.names import Names
from gateway.database.errors import Sessions
from gateway.errors import InvalidRequest, NotFound
from tests.conftest import Builder
from tests.integration.api_admin.conftest import ADMIN_KEY, Run
from tests.integration.api_admin.learning.test_predictor_routes import a_version


class CountingClient(AdminClient):
    """Counts the requests that it sends."""

    requests = 0

    def _send(self, *arguments: Any, **options: Any) -> httpx.Response:
        self.requests += 1
        return super()._send(*arguments, **options)


@pytest.fixture
def commands(lmaas: Run, url: str) -> Run:
    """Runs `lmaas admin` with the address and the key."""

    async def run(*arguments: object, **environment: str) -> tuple[int, str, str]:
        return await lmaas("admin", "--url", url, "--key", ADMIN_KEY, *arguments, **environment)

    return run


async def test_names_lead_from_a_tenant_to_a_key_and_each_step_names_the_next(
    commands: Run, build: Builder
) -> None:
    _, tenant, step = await commands("tenants", "create", "research lab")
    assert "research lab" in tenant
    assert step == "next: lmaas admin apps create 'research lab' NAME\n"
    _, _, step = await commands("apps", "create", "research lab", "letters")
    assert step == "next: lmaas admin keys create 'research lab/letters' NAME\n"
    _, key, step = await commands("keys", "create", "research lab/letters", "laptop")
    secret = next(line.split()[1] for line in key.splitlines() if line.startswith("secret"))
    assert (await build.authenticator.authenticate(secret)).app == "letters"
    assert "it is not shown again" in step
    _, listed, _ = await commands("keys", "list", "letters")
    heading, row = listed.splitlines()
    assert heading.split() == ["name", "key", "created", "expires", "used", "tiers", "revoked"]
    assert row.split()[:2] == ["laptop", f"{secret[:13]}…"]
    assert row.index(secret[:13]) == heading.index("key")
    code, _, step = await commands("keys", "revoke", "research lab/letters/laptop")
    assert (code, step) == (0, "next: lmaas admin keys list 'research lab/letters'\n")


async def test_unknown_and_ambiguous_names_list_what_may_be_meant(
    commands: Run, build: Builder
) -> None:
    for name in ("research", "sales"):
        await build.app(await build.tenant(name), name="mail")
    assert await commands("tenants", "show", "reserch") == (
        *(1, ""),
        "lmaas: there is no tenant 'reserch'; similar names: research\n",
    )
    _, _, unknown = await commands("keys", "list", "research/mial")
    assert unknown.startswith("lmaas: there is no app 'research/mial'; similar names: ")
    assert "research/mail" in unknown
    _, _, ambiguous = await commands("keys", "list", "mail")
    assert ambiguous.startswith("lmaas: several apps are named 'mail': research/mail (")
    assert await commands("queue", "--tenant", "zzz") == (
        *(1, ""),
        "lmaas: there is no tenant 'zzz'; there are research, sales\n",
    )


async def test_versions_have_names_for_their_state(commands: Run, sessions: Sessions) -> None:
    first, second = [await a_version(sessions) for _ in range(2)]
    assert (await commands("predictors", "show", "active"))[2] == (
        "lmaas: there is no active version\n"
    )
    await commands("predictors", "activate", str(first.id)[-8:])
    await commands("predictors", "activate", "latest")
    for name, version in (("active", second), ("latest", second), ("previous", first)):
        _, shown, _ = await commands("predictors", "show", name, "--json")
        assert json.loads(shown)["id"] == str(version.id)


async def test_app_is_found_with_one_request_and_its_key_with_three(
    url: str, build: Builder
) -> None:
    app = await build.app(await build.tenant("research"), name="mail")
    await build.app(await build.tenant("sales"), name="mail")
    slashes = await build.app(await build.tenant("a/b"), name="c/d")
    revoked, key = [await build.key(app, name="laptop") for _ in range(2)]

    def find() -> None:
        with closing(CountingClient(url, ADMIN_KEY)) as client:
            names = Names(client)
            assert names.app("research/mail") == str(app.id)
            assert client.requests == 1
            with pytest.raises(InvalidRequest, match=f"several keys .*{key.key.id}"):
                names.key("research/mail/laptop")
            client.delete(f"/admin/keys/{revoked.key.id}")
            client.requests = 0
            assert names.key("research/mail/laptop") == str(key.key.id)
            assert client.requests <= 3
            assert names.app("a/b/c/d") == names.app("c/d") == str(slashes.id)
            assert names.app(str(app.id)) == str(app.id)

    await asyncio.to_thread(find)


async def test_part_of_an_id_must_be_long_enough_and_unique(url: str, sessions: Sessions) -> None:
    first, second = [str((await a_version(sessions)).id) for _ in range(2)]

    def find() -> None:
        with closing(AdminClient(url, ADMIN_KEY)) as client:
            names = Names(client)
            assert names.version(first[-8:]) == first
            with pytest.raises(InvalidRequest, match=f"{second}, {first}"):
                names.version(first[:6])
            with pytest.raises(NotFound, match="accepted are latest, active, previous, an id"):
                names.version(first[-3:])
            with pytest.raises(NotFound, match="there is no latest training run"):
                names.run("latest")

    await asyncio.to_thread(find)


async def test_apps_of_all_tenants_are_listed_with_their_tenants(
    commands: Run, build: Builder
) -> None:
    for tenant in ("first", "second"):
        await build.app(await build.tenant(tenant), name="mail", instruction="Be\nbrief.")
    _, listed, _ = await commands("apps", "list")
    for tenant, row in zip(("first", "second"), listed.splitlines()[1:], strict=True):
        assert row.split()[:3] == [tenant, "mail", r"Be\nbrief."]
    _, only, _ = await commands("apps", "list", "second", "--json")
    assert json.loads(only)["name"] == "mail"


async def test_log_is_imported_for_a_tenant_whose_missing_apps_are_created(
    commands: Run, tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"app": "mail", "input": "a b", "tokens": 3}\n' * 2)
    learn = ("predictors", "learn", log, "--tenant", "imports")
    code, _, errors = await commands(*learn)
    assert (code, errors) == (1, "lmaas: there is no tenant 'imports', nor any other\n")
    code, rows, errors = await commands(*learn, "--create")
    assert (code, rows.splitlines()[0].split()) == (0, ["rows", "2"])
    assert errors.splitlines() == [
        "created the tenant imports",
        "created the app imports/mail",
        "next: lmaas admin predictors train --wait",
    ]
    log.write_text('{"app": "chat", "input": "a b", "tokens": 3}\n')
    code, _, errors = await commands(*learn)
    assert "the tenant imports has no app 'chat'; --create creates" in errors
    log.write_text('{"app": "chat", "input": "a b"}\n')
    code, _, errors = await commands(*learn, "--create")
    assert (code, "nothing was imported" in errors) == (1, True)
    _, apps, _ = await commands("apps", "list", "imports")
    assert "chat" not in apps


async def test_drift_without_outcomes_has_no_verdict(commands: Run) -> None:
    code, output, errors = await commands("drift", "--hours", 2)
    assert (code, output) == (
        0,
        "verdict: none, no version is trained yet; lengths are predicted from earlier ones\n",
    )
    assert errors.splitlines() == [
        "no request of the last 2 hours was predicted by a trained version",
        "next: lmaas admin predictors train --wait",
    ]


async def test_limits_are_set_listed_and_removed_by_names(
    lmaas: Run, url: str, build: Builder
) -> None:
    async def limits(*arguments: str) -> tuple[int, list[dict[str, Any]], str]:
        code, output, errors = await lmaas(
            "admin", "--url", url, "limits", *arguments, "--json", LMAAS_ADMIN_KEY=ADMIN_KEY
        )
        listed = arguments[0] == "list"
        found = [json.loads(line) for line in output.splitlines()] if listed else []
        return code, found, errors

    tenant = await build.tenant("acme")
    app = await build.app(tenant, name="chat")
    assert (await limits("set", "acme", "tokens_per_day", "1000"))[0] == 0
    assert (await limits("set", "acme", "tokens_per_day", "800", "--effect", "warn"))[0] == 0
    assert (await limits("set", "acme/chat", "cost_per_month", "2.5", "--each-user"))[0] == 0
    assert (await limits("set", "node", "kv_share", "0.5"))[0] == 0
    _, everything, _ = await limits("list")
    assert [(each["level"], each["owner"], each["value"]) for each in everything] == [
        ("tenant", "acme", "1000"),
        ("tenant", "acme", "800"),
        ("user", "acme/chat", "2.5"),
        ("node", None, "0.5"),
    ]
    assert {each["owner_id"] for each in everything} == {str(tenant.id), str(app.id), None}
    code, _, errors = await limits("remove", "acme", "tokens_per_day")
    assert (code, "choose --effect: hard, warn" in errors) == (1, True)
    assert (await limits("remove", "acme", "tokens_per_day", "--effect", "warn"))[0] == 0
    assert [each["effect"] for each in (await limits("list", "acme"))[1]] == ["hard"]
    assert "no such limit" in (await limits("remove", "acme", "kv_share"))[2]
    assert "an id needs --level" in (await limits("list", str(tenant.id)))[2]
    assert (await limits("list", str(tenant.id), "--level", "tenant"))[1]


async def test_tenant_app_and_key_are_renamed_restricted_and_deleted_by_name(
    commands: Run, build: Builder
) -> None:
    app = await build.app(await build.tenant("acme"), name="chat")
    new = await build.key(app, name="laptop")
    for changed in (
        ("tenants", "rename", "acme", "acme & sons"),
        ("apps", "rename", "acme & sons/chat", "talk"),
        ("apps", "instruct", "talk", "Be brief."),
        ("keys", "update", "talk/laptop", "--tiers", "flex, default", "--min-deadline-s", 2),
    ):
        assert (await commands(*changed))[0] == 0, changed
    caller = await build.authenticator.authenticate(new.secret)
    assert (caller.tenant, caller.app, caller.instruction) == ("acme & sons", "talk", "Be brief.")
    assert (caller.service_tiers, caller.min_deadline_s) == (("default", "flex"), 2.0)
    _, shown, _ = await commands("keys", "show", "talk/laptop")
    assert "default, flex" in shown or "['default', 'flex']" in shown
    code, _, refused = await commands("tenants", "delete", "acme & sons")
    assert (code, "Aborted" in refused) == (1, True)
    code, deleted, step = await commands("tenants", "delete", "acme & sons", "--yes")
    assert (code, "acme & sons" in deleted) == (0, True)
    assert "audit --subject" in step
    assert (await commands("apps", "list"))[1:] == ("", "there are no apps\n")
