"""The list of all tenants' batch jobs, as route and as command."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from models import Batch
from tests.conftest import Builder
from tests.integration.api_admin.conftest import ADMIN_KEY
from tests.integration.jobs.conftest import MakeJob, make_job

fixtures = (make_job,)
Run = Callable[..., Awaitable[tuple[int, str, str]]]
PROBLEMS = [{"code": "empty", "line": 0, "message": "the file has no lines", "param": None}]


@pytest.fixture
async def jobs(build: Builder, make_job: MakeJob) -> list[Batch]:
    """Jobs of two tenants, oldest first."""
    acme = await build.app(await build.tenant("acme"), name="chat")
    other = await build.app(await build.tenant("other"))
    failed = {"status": "failed", "errors": PROBLEMS, "failed_at": datetime.now(UTC)}
    return [
        await make_job(2, app=acme, completed=1, failed=1),
        await make_job(1, app=other, **failed),
        await make_job(0, app=acme, **failed, labels={"name": "of its client"}),
    ]


def ids(items: list[Any]) -> list[str]:
    return [item["id"] for item in items]


async def test_jobs_of_all_tenants_are_listed_newest_first(
    client: httpx.AsyncClient, jobs: list[Batch]
) -> None:
    page = (await client.get("/admin/batches")).json()
    assert (page["object"], page["has_more"]) == ("list", False)
    assert ids(page["data"]) == [str(job.id) for job in reversed(jobs)]
    newest, _, oldest = page["data"]
    assert (newest["tenant"], newest["app"], newest["status"]) == ("acme", "chat", "failed")
    assert newest["error"] == "the file has no lines"
    assert newest["ended_at"] is not None
    assert "of its client" not in str(page)
    counts = [oldest[name] for name in ("total", "completed", "failed")]
    assert (counts, oldest["error"], oldest["ended_at"]) == ([2, 1, 1], None, None)


async def test_pages_follow_one_another(client: httpx.AsyncClient, jobs: list[Batch]) -> None:
    first = (await client.get("/admin/batches?limit=2")).json()
    assert first["has_more"]
    after = first["data"][-1]["id"]
    second = (await client.get(f"/admin/batches?limit=2&after={after}")).json()
    assert not second["has_more"]
    assert ids(first["data"] + second["data"]) == [str(job.id) for job in reversed(jobs)]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("tenant=acme", [2, 0]),
        ("status=failed", [2, 1]),
        ("tenant=acme&status=failed", [2]),
        ("tenant=third", []),
        ("status=expired", []),
    ],
)
async def test_jobs_are_filtered_by_tenant_and_status(
    client: httpx.AsyncClient, jobs: list[Batch], query: str, wanted: list[int]
) -> None:
    page = (await client.get(f"/admin/batches?{query}")).json()
    assert ids(page["data"]) == [str(jobs[number].id) for number in wanted]


async def test_tenant_is_known_by_its_id_too(client: httpx.AsyncClient, jobs: list[Batch]) -> None:
    page = (await client.get(f"/admin/batches?tenant={jobs[1].tenant_id}")).json()
    assert ids(page["data"]) == [str(jobs[1].id)]


@pytest.mark.parametrize(
    ("query", "param"), [("status=done", "status"), ("limit=0", "limit"), ("after=x", "after")]
)
async def test_filter_that_is_none_is_refused(
    client: httpx.AsyncClient, query: str, param: str
) -> None:
    answer = await client.get(f"/admin/batches?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_command_lists_them(lmaas: Run, url: str, jobs: list[Batch]) -> None:
    admin = ("admin", "--url", url, "--key", ADMIN_KEY, "batches", "list")
    _, listed, _ = await lmaas(*admin, "--tenant", "acme", "--json")
    assert ids([json.loads(line) for line in listed.splitlines()]) == [
        str(jobs[number].id) for number in (2, 0)
    ]
    _, table, errors = await lmaas(*admin, "--limit", 2)
    assert [row.split()[-1] for row in table.splitlines()[1:]] == [
        str(jobs[number].id) for number in (2, 1)
    ]
    assert "raise --limit" in errors
    assert await lmaas(*admin, "--status", "expired") == (0, "", "there is no such batch\n")
