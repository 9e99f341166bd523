"""Whatever gateways, operators and the clock do, each line of a job ends once."""

import asyncio
from collections import Counter
from typing import Any, TypeAlias
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text, update

from gateway.database.errors import Sessions, transaction
from gateway.jobs.batches.batches import Batches
from gateway.jobs.batches.claims.claiming import claim_lines
from gateway.jobs.batches.limits import BatchLimits
from gateway.jobs.batches.output_lines import line_id, responded
from gateway.jobs.batches.results import LineResult, write_results
from gateway.jobs.batches.states import LineState
from models import Batch, BatchLine, BatchWorker
from tests.conftest import Builder
from tests.integration.jobs.conftest import MODEL, Gateway, MakeJob, change, reload

LINES = 12
Held: TypeAlias = list[tuple[UUID, int]]

steps = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), st.integers(0, 1), st.integers(1, 5)),
        st.tuples(st.just("complete"), st.integers(0, 1), st.integers(1, 4)),
        st.tuples(st.just("fail"), st.integers(0, 1), st.integers(1, 2)),
        st.tuples(st.just("again"), st.integers(0, 1), st.integers(1, 2)),
        st.tuples(st.just("die"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("stop"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("cancel"), st.just(0), st.just(0)),
        st.tuples(st.just("expire"), st.just(0), st.just(0)),
        st.tuples(st.just("end"), st.integers(0, 1), st.just(0)),
    ),
    max_size=20,
)


class World:
    """One job and two gateways; `said` is what each line's accepted result says."""

    def __init__(self, sessions: Sessions, batch: Batch, gateways: list[Gateway]) -> None:
        self.sessions = sessions
        self.batch = batch
        self.gateways = gateways
        self.held: list[Held] = [[], []]
        self.late: list[tuple[UUID, Held]] = []  # dead gateways that still write
        self.said: dict[int, str] = {}
        self.writes = 0

    async def act(self, step: str, number: int, count: int) -> None:
        gateway = self.gateways[number]
        match step:
            case "claim":
                async with transaction(self.sessions) as session:
                    rows = await claim_lines(session, MODEL, gateway.owner, count)
                self.held[number] += [(row.batch_id, row.number) for row in rows]
            case "complete" | "fail" | "again":
                taken, self.held[number] = self.held[number][:count], self.held[number][count:]
                await self.write(gateway.owner, taken, step)
            case "die":
                async with self.sessions.begin() as session:
                    await session.execute(
                        update(BatchWorker)
                        .where(BatchWorker.id == gateway.owner)
                        .values(expires_at=func.now() - text("interval '1 s'"))
                    )
                self.late.append((gateway.owner, self.held[number]))
                await self.replace(number)
                await self.gateways[number].lease.free_dead()
            case "stop":
                await gateway.lease.release()
                await self.replace(number)
            case "cancel":
                if (await reload(self.sessions, self.batch)).status == "in_progress":
                    jobs = Batches(self.sessions, MODEL, BatchLimits(), lambda: None)
                    await jobs.cancel(self.batch.tenant_id, self.batch.id)
            case "expire":
                await change(self.sessions, self.batch, expires_at=func.now())
                await gateway.ending.expire()
            case "end":
                await self.end(gateway)

    async def replace(self, number: int) -> None:
        self.gateways[number] = await Gateway(self.sessions).started()
        self.held[number] = []

    async def write(self, owner: UUID, places: Held, step: str) -> None:
        results = []
        for batch_id, number in places:
            self.writes += 1
            said = f"{step} {self.writes}"
            state = {
                "complete": LineState.COMPLETED,
                "fail": LineState.FAILED,
                "again": LineState.WAITING,
            }[step]
            line = responded(line_id(batch_id, number), f"line {number}", 200, f'"{said}"'.encode())
            results.append(
                LineResult(
                    batch_id=batch_id,
                    number=number,
                    state=state,
                    result=None if state == LineState.WAITING else line,
                    generated_tokens=3,
                )
            )
        async with transaction(self.sessions) as session:
            written = await write_results(session, owner, results) if results else set()
        for result in results:
            if (result.batch_id, result.number) in written and result.result:
                assert result.number not in self.said, "a line ended twice"
                self.said[result.number] = f"{step} {result.result.decode()}"

    async def end(self, gateway: Gateway) -> None:
        await gateway.ending.complete()
        await gateway.end_jobs()

    async def finish(self) -> None:
        """What is left to do, done by a new gateway; the dead ones write late."""
        await self.gateways[0].lease.release()
        await self.gateways[1].lease.release()
        await self.replace(0)
        last = self.gateways[0]
        for owner, places in self.late:
            await self.write(owner, places, "complete")
        while (await reload(self.sessions, self.batch)).status == "in_progress":
            await self.act("claim", 0, LINES)
            await self.act("complete", 0, LINES)
            await self.end(last)
        await self.end(last)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(taken=steps)
async def test_each_line_ends_once(sessions: Sessions, make_job: MakeJob, taken: Any) -> None:
    batch = await make_job(LINES, group=3)
    gateways = [await Gateway(sessions).started() for _ in range(2)]
    world = World(sessions, batch, gateways)
    for step, number, count in taken:
        await world.act(step, number, count)
    await world.finish()

    ended = await reload(sessions, batch)
    assert ended.status in ("completed", "cancelled", "expired")
    output, errors = await gateways[0].written(ended)
    named = Counter(line["custom_id"] for line in output + errors)
    assert named == Counter(f"line {number}" for number in range(1, LINES + 1))
    assert (ended.total, ended.completed, ended.failed) == (LINES, len(output), len(errors))
    done = {n for n, said in world.said.items() if said.startswith("complete")}
    assert {line["custom_id"] for line in output} == {f"line {n}" for n in done}
    for line in output:
        number = int(line["custom_id"].split()[1])
        assert line["response"]["body"] in world.said[number]
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(BatchLine)) == 0
    await world.gateways[0].lease.release()


async def test_two_gateways_never_claim_the_same_line(
    sessions: Sessions, make_job: MakeJob
) -> None:
    batch = await make_job(60, group=6)
    gateways = [await Gateway(sessions).started() for _ in range(2)]

    async def claim_all(gateway: Gateway) -> list[int]:
        claimed: list[int] = []
        while True:
            async with transaction(sessions) as session:
                rows = await claim_lines(session, MODEL, gateway.owner, 4)
            if not rows:
                return claimed
            claimed += [row.number for row in rows]

    mine, others = await asyncio.gather(*map(claim_all, gateways))
    assert sorted(mine + others) == list(range(1, 61))
    assert (await reload(sessions, batch)).status == "in_progress"


async def test_group_stays_with_its_gateway_while_there_are_others(
    sessions: Sessions, make_job: MakeJob
) -> None:
    await make_job(12, group=6)
    first, second = [await Gateway(sessions).started() for _ in range(2)]

    async def claim(gateway: Gateway, count: int) -> list[int]:
        async with transaction(sessions) as session:
            return [row.number for row in await claim_lines(session, MODEL, gateway.owner, count)]

    assert await claim(first, 2) == [1, 2]
    assert await claim(second, 2) == [7, 8]
    assert await claim(first, 5) == [3, 4, 5, 6, 9]
    assert await claim(second, 9) == [10, 11, 12]


async def test_tenant_with_fewer_running_lines_goes_first(
    sessions: Sessions, make_job: MakeJob
) -> None:
    large, small = await make_job(20), await make_job(3)
    gateway = await Gateway(sessions).started()

    async def claim(count: int) -> list[UUID]:
        async with transaction(sessions) as session:
            rows = await claim_lines(session, MODEL, gateway.owner, count)
        return [row.batch_id for row in rows]

    assert await claim(5) == [large.id] * 5
    assert await claim(3) == [small.id] * 3


async def test_job_of_a_tenant_with_fewer_jobs_in_progress_is_worked_on_first(
    sessions: Sessions, make_job: MakeJob, build: Builder
) -> None:
    app = await build.app()
    ended = {"status": "finalizing", "outcome": "expired"}
    await make_job(1, app=app)
    earlier = [await make_job(1, app=app, **ended) for _ in range(2)]
    later = await make_job(1, **ended)
    gateway = await Gateway(sessions).started()
    order = []
    while (job := await gateway.ending.claim()) is not None:
        order.append(job.id)
        await gateway.ending.finish(job)
    assert order == [later.id, *(each.id for each in earlier)]


async def test_lines_of_an_app_over_its_limit_are_left_out(
    sessions: Sessions, make_job: MakeJob
) -> None:
    limited, free = await make_job(3), await make_job(3)
    gateway = await Gateway(sessions).started()
    async with transaction(sessions) as session:
        rows = await claim_lines(session, MODEL, gateway.owner, 9, {limited.app_id})
        assert [row.batch_id for row in rows] == [free.id] * 3
        rows = await claim_lines(session, MODEL, gateway.owner, 9)
        assert [row.batch_id for row in rows] == [limited.id] * 3
