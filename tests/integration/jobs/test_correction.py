"""The first outcomes of a job change the order of the lines that wait."""

import time
from collections import Counter
from collections.abc import Callable, Mapping

import pytest
from sqlalchemy import delete, select, update

from gateway.database.errors import Sessions, transaction
from gateway.generation.request import GenerationRequest
from gateway.generation.request_state import RequestState
from gateway.generation.text.tokenizer import ChatTokenizer
from gateway.jobs.batches.claims.claiming import claim_lines
from gateway.jobs.batches.correction import FIRST, JobCorrections
from gateway.scheduling.requests import SharedPrefix
from models import Batch, BatchLine
from tests.integration.damage import damaged
from tests.integration.jobs.conftest import MODEL, Gateway, MakeJob
from tests.unit.generation.conftest import SchedulerScene, a_request, tokenizer

fixtures = (a_request, tokenizer)
PREDICTED = (5.0, 7.0, 10.0, 14.0, 20.0, 25.0)


class Outcomes:
    """Makes states of lines that have ended."""

    def __init__(self, scene: SchedulerScene) -> None:
        self._scene = scene

    def ended(self, group: str, tokens: int) -> RequestState:
        state = self._scene.request(
            length=10.0, quantiles=PREDICTED, lane="batch", prefix=SharedPrefix(group, 16)
        )
        state.grow([5] * tokens, time.monotonic())
        state.end("stop", time.monotonic())
        state.release()
        return state


@pytest.fixture
def outcomes(a_request: Callable[..., GenerationRequest], tokenizer: ChatTokenizer) -> Outcomes:
    return Outcomes(SchedulerScene(a_request, tokenizer))


def observe(
    corrections: JobCorrections, batch: Batch, outcomes: Outcomes, tokens: Mapping[str, int]
) -> None:
    """As many lines of each group end, with these tokens, as may change the order."""
    for _ in range(FIRST):
        for group, length in tokens.items():
            corrections.observe(batch.id, outcomes.ended(group, length))


async def order(sessions: Sessions, batch: Batch) -> list[str | None]:
    """The groups of the lines that wait, in their order."""
    found = select(BatchLine.prefix_id).where(BatchLine.batch_id == batch.id, BatchLine.state == 0)
    async with sessions() as session:
        return list(await session.scalars(found.order_by(BatchLine.rank)))


async def test_group_whose_answers_are_longer_than_predicted_goes_first(
    sessions: Sessions, make_job: MakeJob, outcomes: Outcomes
) -> None:
    batch = await make_job(12, group=4)
    assert await order(sessions, batch) == ["group 0"] * 4 + ["group 1"] * 4 + ["group 2"] * 4
    corrections = JobCorrections(sessions, lambda _: (), Counter())
    observe(corrections, batch, outcomes, {"group 2": 40, "group 0": 10})
    await corrections.apply()
    assert (await order(sessions, batch))[:4] == ["group 2"] * 4


async def test_group_that_runs_stays_first_when_others_grow(
    sessions: Sessions, make_job: MakeJob, outcomes: Outcomes
) -> None:
    batch = await make_job(12, group=4)
    gateway = await Gateway(sessions).started()
    async with transaction(sessions) as session:
        await claim_lines(session, MODEL, gateway.owner, 1)
    corrections = JobCorrections(sessions, lambda _: (), Counter())
    observe(corrections, batch, outcomes, {"group 2": 40, "group 1": 10})
    await corrections.apply()
    assert await order(sessions, batch) == ["group 0"] * 3 + ["group 2"] * 4 + ["group 1"] * 4


async def test_right_predictions_and_few_outcomes_change_nothing(
    sessions: Sessions, make_job: MakeJob, outcomes: Outcomes
) -> None:
    batch = await make_job(12, group=4)
    before = await order(sessions, batch)
    corrections = JobCorrections(sessions, lambda _: (), Counter())
    for _ in range(FIRST - 1):
        corrections.observe(batch.id, outcomes.ended("group 2", 80))
    await corrections.apply()
    assert await order(sessions, batch) == before
    right = JobCorrections(sessions, lambda _: (), Counter())
    for number in range(2 * FIRST):
        right.observe(batch.id, outcomes.ended(f"group {number % 3}", 10))
    await right.apply()
    assert await order(sessions, batch) == before


async def test_documents_of_one_instruction_stay_together(
    sessions: Sessions, make_job: MakeJob, outcomes: Outcomes
) -> None:
    batch = await make_job(12, group=3)
    inside = {"a": ("group 0", "group 3"), "b": ("group 1", "group 2")}
    async with sessions.begin() as session:
        for outer, groups in inside.items():
            changed = update(BatchLine).where(BatchLine.prefix_id.in_(groups))
            await session.execute(changed.values(outer_prefix_id=outer, outer_prefix_tokens=8))
    corrections = JobCorrections(sessions, lambda _: (), Counter())
    observe(corrections, batch, outcomes, {"group 3": 40, "group 2": 10})
    await corrections.apply()
    found = [group for group in (await order(sessions, batch))[::3] if group]
    assert found[0] == "group 3"
    assert set(found[:2]) == set(inside["a"])


async def test_deleted_job_keeps_no_other_from_its_order(
    sessions: Sessions, make_job: MakeJob, outcomes: Outcomes
) -> None:
    gone, batch = await make_job(12, group=4), await make_job(12, group=4)
    faults = Counter[str]()
    corrections = JobCorrections(sessions, lambda _: (), faults)
    for job in (gone, batch):
        observe(corrections, job, outcomes, {"group 2": 40, "group 0": 10})
    async with sessions.begin() as session:
        await session.execute(delete(Batch).where(Batch.id == gone.id))
    await corrections.apply()
    assert (await order(sessions, batch))[:4] == ["group 2"] * 4
    assert not faults


async def test_job_that_cannot_be_ranked_keeps_no_other_from_its_order(
    sessions: Sessions, make_job: MakeJob, outcomes: Outcomes
) -> None:
    failing, batch = await make_job(12, group=4), await make_job(12, group=4)
    faults = Counter[str]()
    corrections = JobCorrections(sessions, lambda _: (), faults)
    for job in (failing, batch):
        observe(corrections, job, outcomes, {"group 2": 40, "group 0": 10})
    async with damaged(sessions, "UPDATE", "batch_lines", f"NEW.batch_id = '{failing.id}'"):
        await corrections.apply()
        await corrections.apply()  # not before more has been learned
    assert (await order(sessions, batch))[:4] == ["group 2"] * 4
    assert faults == {"order": 1}
