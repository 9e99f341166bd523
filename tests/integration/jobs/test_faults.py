"""Work on a job that fails for what was not foreseen: attempts are bounded, and others go on."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from gateway.api.openai.batches.endpoints import ENDPOINTS
from gateway.database.errors import Sessions
from gateway.errors import DatabaseLost
from gateway.generation.request import GenerationRequest
from gateway.generation.text.growing_answer import Piece
from gateway.generation.text.tokenizer import ChatTokenizer
from gateway.jobs.batches import ending as ending_module
from gateway.jobs.batches import source as source_module
from gateway.jobs.batches.claims import attempts as attempts_module
from gateway.jobs.batches.claims.attempts import pause_s
from gateway.jobs.batches.claims.claiming import claim_lines
from gateway.jobs.batches.jobs import BatchJobs, BatchOptions
from gateway.jobs.batches.source import BatchLines
from gateway.jobs.batches.states import LineState
from gateway.jobs.batches.validation.validator import MAX_ATTEMPTS
from gateway.jobs.runner import JobLine, LineOutcome
from models import Batch, BatchLine
from models.base import new_id
from tests.conftest import PATIENCE_S
from tests.integration.damage import LOSE, damaged, unreadable
from tests.integration.jobs.conftest import Gateway, MakeJob, change, reload
from tests.integration.jobs.test_validation import (
    Scene,
    a_line,
    scene,
    service,
    socket,
)
from tests.unit.generation.conftest import SchedulerScene, a_request, tokenizer

fixtures = (a_request, scene, service, socket, tokenizer)
POISON = "NEW.custom_id = 'poison'"


def jobs_of(scene: Scene) -> BatchJobs:
    options = BatchOptions(limits=scene.limits)
    return BatchJobs(scene.sessions, scene.files, scene.service, ENDPOINTS, options)


async def waited(sessions: Sessions, batch: Batch) -> None:
    """The pause before the next attempt is over."""
    await change(sessions, batch, retry_at=datetime.now(UTC) - timedelta(seconds=1))


async def test_job_that_cannot_be_validated_fails_in_the_end_and_holds_up_no_other(
    scene: Scene,
) -> None:
    poison = await scene.job([a_line("poison", "king")])
    jobs = jobs_of(scene)
    async with damaged(scene.sessions, "INSERT", "batch_lines", POISON):
        for attempt in range(1, MAX_ATTEMPTS):
            await jobs.validate_jobs()
            await jobs.validate_jobs()  # too soon for the next attempt
            waiting = await reload(scene.sessions, poison)
            assert (waiting.status, waiting.attempts) == ("validating", attempt)
            assert waiting.owner is None
            assert waiting.retry_at is not None
            assert waiting.retry_at - datetime.now(UTC) > timedelta(seconds=pause_s(attempt) / 2)
            await waited(scene.sessions, poison)
        other = await scene.job([a_line("b", "queen")])
        await jobs.validate_jobs()
    assert (await reload(scene.sessions, other)).status == "in_progress"
    failed = await reload(scene.sessions, poison)
    assert (failed.status, failed.owner) == ("failed", None)
    assert failed.failed_at is not None
    assert failed.errors == [
        {
            "code": "internal_error",
            "line": 0,
            "message": "internal error: the gateway failed 5 times, the last time with "
            "DataCorrupted; it has logged why",
            "param": None,
        }
    ]
    assert jobs.faults["validation"] == MAX_ATTEMPTS
    assert await scene.files.show(poison.tenant_id, poison.input_file_id)
    assert await scene.lines(poison) == []


async def test_job_with_which_gateways_end_fails_in_the_end(scene: Scene) -> None:
    batch = await scene.job([a_line("a", "king")])
    for _ in range(MAX_ATTEMPTS):
        assert await scene.validator().claim() is not None
        assert await scene.validator().claim() is None  # another has it
        await change(scene.sessions, batch, owner=None)  # its lease ended
        assert await scene.validator().claim() is None  # too soon
        await waited(scene.sessions, batch)
    await jobs_of(scene).validate_jobs()
    failed = await reload(scene.sessions, batch)
    assert failed.status == "failed"
    assert failed.errors
    assert "ended 5 times" in failed.errors[0]["message"]


async def test_lost_database_is_no_attempt(scene: Scene) -> None:
    batch = await scene.job([a_line("a", "king")])
    jobs = jobs_of(scene)
    async with damaged(scene.sessions, "INSERT", "batch_lines", "TRUE", LOSE):
        for _ in range(MAX_ATTEMPTS + 1):
            with pytest.raises(DatabaseLost):
                await jobs.validate_jobs()
            waiting = await reload(scene.sessions, batch)
            assert (waiting.status, waiting.attempts, waiting.owner) == ("validating", 0, None)
            await waited(scene.sessions, batch)
    await jobs.validate_jobs()
    assert (await reload(scene.sessions, batch)).status == "in_progress"
    assert jobs.faults["validation"] == 0


async def test_job_that_could_not_be_given_back_is_validated_again(scene: Scene) -> None:
    batch = await scene.job([a_line("a", "king")])
    jobs = jobs_of(scene)
    claimed = await jobs.validator.claim()  # then the database was away
    assert claimed is not None
    await jobs.validate_jobs()
    started = await reload(scene.sessions, batch)
    assert (started.status, started.attempts) == ("in_progress", 0)


async def test_cancelled_job_ends_at_once_whatever_its_validation_failed_with(
    scene: Scene,
) -> None:
    batch = await scene.job([a_line("poison", "king")])
    jobs = jobs_of(scene)
    async with damaged(scene.sessions, "INSERT", "batch_lines", POISON):
        await jobs.validate_jobs()
    await scene.batches().cancel(batch.tenant_id, batch.id)
    await jobs.end_jobs()
    assert (await reload(scene.sessions, batch)).status == "cancelled"


async def test_job_whose_files_cannot_be_written_fails_in_the_end_and_holds_up_no_other(
    sessions: Sessions, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts_module, "FIRST_PAUSE_S", 0.0)  # each turn is an attempt
    gateway = await Gateway(sessions).started()
    ended = {"status": "finalizing", "outcome": "expired"}
    poison, other = await make_job(2, **ended), await make_job(2, **ended)
    written = f"NEW.filename LIKE 'batch_{poison.id.hex}%'"
    async with damaged(sessions, "INSERT", "files", written):
        await gateway.end_jobs()
    assert gateway.faults == {"end": ending_module.MAX_ATTEMPTS}
    assert (await reload(sessions, other)).status == "expired"
    failed = await reload(sessions, poison)
    assert (failed.status, failed.completed, failed.failed) == ("failed", 0, 2)
    assert failed.errors
    assert failed.errors[0]["code"] == "internal_error"


def test_pauses_double_up_to_an_hour() -> None:
    assert [pause_s(attempt) for attempt in (1, 2, 3)] == [5.0, 10.0, 20.0]
    assert pause_s(12) == pause_s(40) == 3_600.0


class Lines:
    """The lines of a job that runs, as its gateway's runner has them."""

    def __init__(self, scene: Scene) -> None:
        self.faults = Counter[str]()
        self.owner = new_id()
        self.source = BatchLines(scene.sessions, scene.service, ENDPOINTS, self.owner, self.faults)


def custom_ids(lines: list[Any]) -> list[str]:
    return [line.custom_id for line in lines]


async def states_of(scene: Scene, batch: Batch) -> dict[str | None, int]:
    return {line.custom_id: line.state for line in await scene.lines(batch)}


async def test_line_that_cannot_be_read_fails_and_holds_up_no_other(scene: Scene) -> None:
    batch = await scene.validated(await scene.job([a_line(n, "king") for n in "abc"]))
    async with scene.sessions.begin() as session:
        b = BatchLine.batch_id == batch.id, BatchLine.custom_id == "b"
        await session.execute(update(BatchLine).where(*b).values(body=None))
    lines = Lines(scene)
    claimed = await lines.source.claim(9)
    assert sorted(custom_ids([*claimed])) == ["a", "c"]
    states = await states_of(scene, batch)
    assert states == {"a": LineState.RUNNING, "b": LineState.FAILED, "c": LineState.RUNNING}
    assert lines.faults == {"line": 1}


@pytest.mark.parametrize("lost", [False, True])
async def test_line_that_the_database_cannot_read_fails_and_holds_up_no_other(
    scene: Scene, lost: bool
) -> None:
    """In a first claim, or in one after the answer to another was lost."""
    batch = await scene.validated(await scene.job([a_line(n, "king") for n in ("a", "poison")]))
    lines = Lines(scene)
    if lost:
        async with scene.sessions.begin() as session:
            await claim_lines(session, scene.service.model, lines.owner, 9)
        lines.source._doubtful = True
    async with unreadable(scene.sessions, "batch_lines", "body", "custom_id = 'poison'"):
        claimed = await lines.source.claim(9)
    assert custom_ids([*claimed]) == ["a"]
    states = {"a": LineState.RUNNING, "poison": LineState.FAILED}
    assert await states_of(scene, batch) == states
    assert lines.faults == {"line": 1}


@pytest.fixture
def answered(
    a_request: Callable[..., GenerationRequest], tokenizer: ChatTokenizer
) -> Callable[[JobLine], LineOutcome]:
    """Makes the outcome of a line that was answered."""
    made = SchedulerScene(a_request, tokenizer)

    def answer(line: JobLine) -> LineOutcome:
        state = made.request(length=3.0)
        state.grow([5, 6, 7], 0.0)
        state.end("stop", 0.0)
        state.release()
        return LineOutcome(line, [state])

    return answer


Spoil = Callable[[LineOutcome], LineOutcome]


async def finish(
    scene: Scene, answered: Callable[[JobLine], LineOutcome], spoil: Spoil
) -> dict[str | None, int]:
    """The states of a job's lines whose outcomes were written, of which one was spoilt."""
    batch = await scene.validated(await scene.job([a_line(n, "king") for n in ("a", "poison")]))
    lines = Lines(scene)
    outcomes = []
    for line in await lines.source.claim(9):
        outcome = answered(line)
        outcomes.append(spoil(outcome) if custom_ids([line]) == ["poison"] else outcome)
    await lines.source.finished(outcomes)
    assert lines.faults == {"line": 1}
    return await states_of(scene, batch)


DONE_AND_FAILED = {"a": LineState.COMPLETED, "poison": LineState.FAILED}


async def test_answer_that_cannot_be_formatted_fails_its_line_alone(
    scene: Scene, answered: Callable[[JobLine], LineOutcome]
) -> None:
    states = await finish(scene, answered, lambda outcome: LineOutcome(outcome.line))
    assert states == DONE_AND_FAILED


async def test_answer_that_the_database_refuses_fails_its_line_alone(
    scene: Scene, answered: Callable[[JobLine], LineOutcome]
) -> None:
    refused = f"{POISON} AND NEW.state = {int(LineState.COMPLETED)}"
    async with damaged(scene.sessions, "UPDATE", "batch_lines", refused):
        assert await finish(scene, answered, lambda outcome: outcome) == DONE_AND_FAILED


async def test_line_that_cannot_be_ended_at_all_holds_up_no_other(
    scene: Scene, answered: Callable[[JobLine], LineOutcome]
) -> None:
    refused = f"{POISON} AND NEW.state > {int(LineState.RUNNING)}"
    async with damaged(scene.sessions, "UPDATE", "batch_lines", refused):
        states = await finish(scene, answered, lambda outcome: outcome)
    assert states == {"a": LineState.COMPLETED, "poison": LineState.RUNNING}


async def test_answer_that_is_too_large_fails_its_line_alone(
    scene: Scene,
    answered: Callable[[JobLine], LineOutcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(source_module, "MAX_RESULT_BYTES", 1_500)

    def lengthen(outcome: LineOutcome) -> LineOutcome:
        outcome.states[0].answer.grow([5, 6, 7] * 1_000, ())
        return outcome

    batch = await scene.validated(await scene.job([a_line(n, "king") for n in ("a", "poison")]))
    lines = Lines(scene)
    outcomes = [answered(line) for line in await lines.source.claim(9)]
    await lines.source.finished([outcomes[0], lengthen(outcomes[1])])
    assert await states_of(scene, batch) == DONE_AND_FAILED
    failed = (await scene.lines(batch))[1].result
    assert b"accepted in a batch are at most 1500" in (failed or b"")


async def test_lines_larger_than_a_portion_are_claimed_and_written_one_by_one(
    scene: Scene,
    answered: Callable[[JobLine], LineOutcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.jobs.batches.portions.portions.__defaults__", (1,))
    batch = await scene.validated(await scene.job([a_line(n, "king") for n in ("a", "b", "c")]))
    lines = Lines(scene)
    claimed = await lines.source.claim(9)
    assert custom_ids([*claimed]) == ["a", "b", "c"]
    await lines.source.finished([answered(line) for line in claimed])
    assert set((await states_of(scene, batch)).values()) == {LineState.COMPLETED}
    jobs = jobs_of(scene)
    await jobs.end_jobs()
    ended = await reload(scene.sessions, batch)
    assert (ended.status, ended.completed) == ("completed", 3)


async def test_answer_is_whole_though_its_reading_was_cancelled(
    scene: Scene, answered: Callable[[JobLine], LineOutcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await scene.validated(await scene.job([a_line("a", "king")]))
    lines = Lines(scene)
    outcome = answered((await lines.source.claim(1))[0])
    began, go, read = threading.Event(), threading.Event(), outcome.states[0].read_parts

    def slowly(*, ended: bool) -> Iterator[Piece]:
        began.set()
        go.wait(PATIENCE_S)
        yield from read(ended=ended)

    monkeypatch.setattr(outcome.states[0], "read_parts", slowly)
    monkeypatch.setattr(scene.service.workers, "_short_us", -1)  # in a thread
    writing = asyncio.create_task(lines.source.finished([outcome]))
    await asyncio.to_thread(began.wait, PATIENCE_S)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    again = asyncio.create_task(lines.source.finished([outcome]))
    go.set()
    await again
    [line] = await scene.lines(batch)
    assert line.state == LineState.COMPLETED
    assert line.result is not None
    message = json.loads(line.result)["response"]["body"]["choices"][0]["message"]
    assert message["content"]
