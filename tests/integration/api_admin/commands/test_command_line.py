"""`lmaas` from the shell, against the admin API on a real socket."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.database.errors import Sessions
from gateway.history.writer import HistoryWriter
from tests.conftest import Builder
from tests.integration.api_admin.conftest import ADMIN_KEY, Run
from tests.integration.api_admin.learning.test_predictor_routes import a_version


async def test_tenant_app_and_key_are_created_in_three_commands(
    lmaas: Run, url: str, build: Builder
) -> None:
    async def made(*arguments: object) -> dict[str, Any]:
        code, output, errors = await lmaas(
            "admin", "--url", url, "--key", ADMIN_KEY, *arguments, "--json"
        )
        assert (code, errors) == (0, "")
        answer: dict[str, Any] = json.loads(output)
        return answer

    tenant = await made("tenants", "create", "acme")
    app = await made("apps", "create", tenant["id"], "mail", "--instruction", "Be polite.")
    key = await made("keys", "create", app["id"], "staging")
    assert (await build.authenticator.authenticate(key["secret"])).app == "mail"
    assert (await made("keys", "revoke", key["id"]))["revoked_at"]


async def test_list_prints_one_json_object_per_line(lmaas: Run, url: str, build: Builder) -> None:
    await build.tenant("first")
    await build.tenant("second")
    _, output, _ = await lmaas(
        "admin", "--url", url, "tenants", "list", "--json", LMAAS_ADMIN_KEY=ADMIN_KEY
    )
    assert [json.loads(line)["name"] for line in output.splitlines()] == ["first", "second"]


async def test_key_is_read_from_the_data_folder(lmaas: Run, url: str, tmp_path: Path) -> None:
    (tmp_path / "admin_key").write_text(f"{ADMIN_KEY}\n")
    code, _, _ = await lmaas(
        "admin", "--url", url, "predictors", "list", LMAAS_DATA_DIR=str(tmp_path)
    )
    assert code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--key", "wrong-key", "tenants", "list"], "the admin key is wrong"),
        (["tenants", "list"], "no admin key: give --key or LMAAS_ADMIN_KEY"),
        (["--key", ADMIN_KEY, "tenants", "create", ""], "name: 1 to 100 printable characters"),
        (["--url", "http://127.0.0.1:9", "--key", "k", "tenants", "list"], "cannot reach http:"),
    ],
)
async def test_failure_is_one_line_and_exit_code_1(
    lmaas: Run, url: str, arguments: list[str], message: str
) -> None:
    code, output, errors = await lmaas("admin", "--url", url, *arguments)
    assert (code, output) == (1, "")
    assert errors.startswith(f"lmaas: {message}")
    assert errors.count("\n") == 1


async def test_engine_is_paused_and_resumed(lmaas: Run, url: str) -> None:
    key = {"LMAAS_ADMIN_KEY": ADMIN_KEY}
    for action, paused in (("show", False), ("pause", True), ("drain", True), ("resume", False)):
        code, output, _ = await lmaas("admin", "--url", url, "engine", action, "--json", **key)
        assert (code, json.loads(output)["paused"]) == (0, paused)


async def test_life_cycle_of_the_predictor_has_its_commands(
    lmaas: Run, url: str, build: Builder, sessions: Sessions, tmp_path: Path
) -> None:
    tenant = (await build.tenant()).id
    versions = [await a_version(sessions) for _ in range(2)]
    file = tmp_path / "exported"

    async def admin(*arguments: object) -> Any:
        code, output, errors = await lmaas(
            "admin", "--url", url, "--key", ADMIN_KEY, *arguments, "--json"
        )
        assert (code, errors) == (0, ""), arguments
        return json.loads(output.splitlines()[0] if output[:2] != "{\n" else output)

    for version in versions:
        await admin("predictors", "activate", version.id)
    assert (await admin("predictors", "rollback"))["id"] == str(versions[0].id)
    assert (await admin("predictors", "export", versions[0].id, file))["bytes"] > 100
    assert (await admin("predictors", "import", file))["checksum"] == versions[0].checksum.hex()
    compared = await admin("predictors", "compare", versions[0].id, versions[1].id)
    assert "found 0" in compared["why_not"]
    changed = await admin("predictors", "schedule", "every_s=3600", "drift=false")
    assert (changed["schedule"]["every_s"], changed["schedule"]["drift"]) == (3600, False)
    assert (await admin("predictors", "schedule"))["schedule"] == changed["schedule"]
    assert (await admin("tenants", "learning", tenant, "off"))["learning"] is False
    assert (await admin("tenants", "show", tenant))["learning"] is False
    assert (await admin("tenants", "erase", tenant, "--user", "u", "--yes"))["rows"] == 0
    assert len((await admin("drift", "--hours", 4, "--buckets", 2))["buckets"]) == 2
    assert (await admin("audit"))["action"] == "samples.erased"
    run = await admin("predictors", "train", "--keep")
    assert (await admin("predictors", "run", run["id"]))["activate"] is False


async def test_invalid_lines_of_a_log_are_listed(lmaas: Run, url: str, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"app": "unknown", "input": "x", "tokens": 1}\n{\n')
    code, output, errors = await lmaas(
        "admin", "--url", url, "--key", ADMIN_KEY, "predictors", "learn", log
    )
    assert (code, output) == (1, "")
    first, second, third = errors.splitlines()
    assert first == "lmaas: nothing was imported"
    assert second == "line 1: there is no app 'unknown'"
    assert third.startswith("line 2: ")


async def test_migrate_reports_its_end(lmaas: Run, postgres_url: str) -> None:
    code, output, _ = await lmaas("migrate", DATABASE_URL=postgres_url)
    assert (code, output) == (0, "the database is up to date\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://me:hush@127.0.0.1:9/db"),
        ("LMAAS_PORTT", "1"),
        ("LMAAS_PORT", "x"),
    ],
)
async def test_wrong_setting_is_one_line_that_names_it(lmaas: Run, name: str, value: str) -> None:
    code, output, errors = await lmaas("migrate", **{name: value})
    assert (code, output) == (1, "")
    assert name in errors
    assert "hush" not in errors
    assert errors.count("\n") == 1


async def test_queue_and_requests_have_their_commands(
    lmaas: Run, url: str, build: Builder, sessions: Sessions, tmp_path: Path, a_record: Any
) -> None:
    record = a_record(queued_s=0.5)
    writer = HistoryWriter(sessions, tmp_path / "spool")
    writer.record(record)
    await writer.flush()
    admin = ("admin", "--url", url, "--key", ADMIN_KEY)
    assert await lmaas(*admin, "queue", "--json") == (0, "", "")
    assert await lmaas(*admin, "queue") == (0, "", "no request waits or runs\n")
    _, totals, _ = await lmaas(*admin, "queue", "--totals", "--json")
    assert json.loads(totals)["waiting"] == 0
    _, shown, _ = await lmaas(*admin, "requests", "show", f"chatcmpl-{record.id.hex}", "--json")
    assert json.loads(shown)["id"] == str(record.id)
    _, listed, _ = await lmaas(*admin, "requests", "list", "--since", "2026-01-01", "--json")
    assert [json.loads(line)["id"] for line in listed.splitlines()] == [str(record.id)]
    _, table, _ = await lmaas(*admin, "requests", "list", "--outcome", "stop", "--limit", 1)
    headings, row = table.splitlines()
    assert headings.split()[:3] == ["arrived", "tenant", "app"]
    assert row.split()[-1] == str(record.id)
    none = (0, "", "no request ended so\n")
    assert await lmaas(*admin, "requests", "list", "--user", "ursula") == none
    for option, bound in (("tokens", record.generation_tokens), ("wait-s", record.queued_s)):
        least, most = f"--least-{option}", f"--most-{option}"
        _, within, _ = await lmaas(*admin, "requests", "list", least, bound, most, bound)
        assert str(record.id) in within
        assert await lmaas(*admin, "requests", "list", least, bound + 1) == none
    code, _, errors = await lmaas(*admin, "requests", "cancel", record.id)
    assert (code, errors) == (1, f"lmaas: there is no request {record.id} that waits or runs\n")
    tenant = (await build.tenant()).id
    _, changed, _ = await lmaas(*admin, "tenants", "share", tenant, "2.5", "--json")
    assert json.loads(changed)["share"] == 2.5
