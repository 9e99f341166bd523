"""Lines of a tenant's jobs that share a prefix are claimed together, whichever job they are of."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import pytest
from sqlalchemy import update

from gateway.database.errors import Sessions, transaction
from gateway.jobs.batches.claims.claiming import claim_lines
from models import App, Batch, BatchLine
from tests.conftest import Builder
from tests.integration.jobs.conftest import MODEL, Gateway, MakeJob, change

Claim: TypeAlias = Callable[[int], Awaitable[list[tuple[str, int]]]]


@pytest.fixture
async def app(build: Builder) -> App:
    return await build.app()


@pytest.fixture
async def jobs(sessions: Sessions, make_job: MakeJob, app: App) -> dict[str, Batch]:
    """Two jobs of one app with short answers, which share the prefixes of their groups of three."""
    first = await make_job(6, app=app, group=3)
    second = await make_job(6, app=app, group=3)
    await change_lines(sessions, second, predicted_tokens=1.0)
    return {"first": first, "second": second}


@pytest.fixture
async def claim(sessions: Sessions, jobs: dict[str, Batch]) -> Claim:
    gateway = await Gateway(sessions).started()
    named = {batch.id: name for name, batch in jobs.items()}

    async def claim(count: int) -> list[tuple[str, int]]:
        async with transaction(sessions) as session:
            rows = await claim_lines(session, MODEL, gateway.owner, count)
        return [(named.get(row.batch_id, "another"), row.number) for row in rows]

    return claim


async def change_lines(sessions: Sessions, batch: Batch, **values: object) -> None:
    async with sessions.begin() as session:
        changed = update(BatchLine).where(BatchLine.batch_id == batch.id)
        await session.execute(changed.values(**values))


async def test_lines_of_a_later_job_go_along_with_their_group(claim: Claim) -> None:
    assert await claim(99) == [
        *(("first", n) for n in (1, 2, 3)),
        *(("second", n) for n in (1, 2, 3)),
        *(("first", n) for n in (4, 5, 6)),
        *(("second", n) for n in (4, 5, 6)),
    ]


async def test_group_goes_on_with_the_next_claim(claim: Claim) -> None:
    assert await claim(2) == [("first", 1), ("first", 2)]
    assert await claim(2) == [("first", 3), ("second", 1)]
    assert await claim(3) == [("second", 2), ("second", 3), ("first", 4)]


async def test_job_that_is_due_soon_is_not_delayed_by_a_later_one(
    sessions: Sessions, jobs: dict[str, Batch], claim: Claim
) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    await change(sessions, jobs["second"], expires_at=soon)
    assert await claim(99) == [
        *(("second", n) for n in range(1, 7)),
        *(("first", n) for n in range(1, 7)),
    ]


async def test_lines_that_take_far_longer_than_their_prefix_do_not_go_along(
    sessions: Sessions, jobs: dict[str, Batch], claim: Claim
) -> None:
    await change_lines(sessions, jobs["second"], predicted_tokens=1_000.0)
    assert await claim(6) == [("first", n) for n in range(1, 7)]


async def test_lines_of_another_tenant_do_not_go_along(make_job: MakeJob, claim: Claim) -> None:
    await make_job(6, group=3)
    claimed = await claim(12)
    assert ("another", 1) not in claimed[:6]
    tenants = [name == "another" for name, _ in claimed]
    assert tenants == sorted(tenants)


async def test_gateways_take_groups_apart_in_all_jobs(
    sessions: Sessions, jobs: dict[str, Batch], claim: Claim
) -> None:
    assert await claim(1) == [("first", 1)]
    other = await Gateway(sessions).started()
    async with transaction(sessions) as session:
        rows = await claim_lines(session, MODEL, other.owner, 6)
    assert [(row.batch_id, row.number) for row in rows] == [
        *((jobs["first"].id, n) for n in (4, 5, 6)),
        *((jobs["second"].id, n) for n in (4, 5, 6)),
    ]
