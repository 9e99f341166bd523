"""Validation of jobs' input files: on a real database, with an engine and its tokenizer."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from sqlalchemy import select

from gateway.api.openai.batches.endpoints import ENDPOINTS
from gateway.database.errors import Sessions, transaction
from gateway.engines.colocated import ColocatedEngine
from gateway.errors import TenantBatchesFull
from gateway.files.bounds import FileBounds
from gateway.files.store import FileOwner, FileStore
from gateway.generation.request import GenerationRequest
from gateway.generation.service import GenerationService
from gateway.generation.text.tokenizer import ChatTokenizer
from gateway.generation.text.workers import TextWorkers
from gateway.jobs.batches.batches import Batches, NewBatch
from gateway.jobs.batches.claims.claiming import claim_lines
from gateway.jobs.batches.ending import BatchEnding
from gateway.jobs.batches.limits import BatchLimits
from gateway.jobs.batches.progress.work import work_of
from gateway.jobs.batches.states import LineState
from gateway.jobs.batches.validation.planning import JobPlanner, RankedJob
from gateway.jobs.batches.validation.validator import BatchValidator
from gateway.prediction.serving.predictor import LengthPredictor
from gateway.tenancy.caller import Caller
from models import Batch, BatchLine
from models.base import new_id
from tests.conftest import Builder
from tests.integration.jobs.conftest import change, reload
from tests.supervised_engine import supervised_engine
from tests.unit.generation.conftest import SchedulerScene, a_request, tokenizer

fixtures = (a_request, tokenizer)
MODEL = "model"
PATH = "/v1/chat/completions"
LONG = "Translate into Velan, word by word. " * 8


@pytest.fixture(scope="module")
async def socket(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with supervised_engine(
        tmp_path_factory.mktemp("engine"), LMAAS_KV_TOKENS="4096"
    ) as supervisor:
        yield supervisor.socket


@pytest.fixture
async def service(
    socket: str,
    sessions: Sessions,
    a_request: Callable[..., GenerationRequest],
    tokenizer: ChatTokenizer,
) -> AsyncIterator[GenerationService]:
    client = ColocatedEngine(socket)
    scene = SchedulerScene(a_request, tokenizer, client=client)
    await scene.scheduler.start()
    await scene.scheduler.engine.ready()
    predictor = LengthPredictor(model=MODEL, model_hash="h", budget_s=1.0, sessions=sessions)
    workers = TextWorkers()
    yield GenerationService(MODEL, tokenizer, predictor, scene.scheduler, workers)
    workers.close()
    await client.close()


class Scene:
    """Jobs of one app, and gateways that validate them."""

    def __init__(self, sessions: Sessions, service: GenerationService, caller: Caller) -> None:
        self.sessions = sessions
        self.service = service
        self.caller = caller
        self.files = FileStore(sessions, FileBounds())
        self.faults = Counter[str]()
        self.limits = BatchLimits(lines=50, tenant_batches=2, line_bytes=4096)

    def validator(self) -> BatchValidator:
        return BatchValidator(
            self.sessions,
            self.files,
            self.service,
            ENDPOINTS,
            JobPlanner(16),
            self.limits,
            new_id(),
            self.faults,
        )

    async def job(self, lines: list[bytes]) -> Batch:
        """A job that waits to be validated."""
        async with transaction(self.sessions) as session:
            owner = FileOwner.of(self.caller)
            writer = await self.files.create(session, owner, filename="l", purpose="batch")
            for line in lines:
                await writer.write(line + b"\n")
            file = await writer.finish()
        return await self.batches().create(
            self.caller, NewBatch(input_file_id=file.id, endpoint=PATH, window="1h")
        )

    def batches(self) -> Batches:
        return Batches(self.sessions, MODEL, self.limits, lambda: None)

    async def validated(self, batch: Batch) -> Batch:
        validator = self.validator()
        claimed = await validator.claim()
        assert claimed is not None
        assert claimed.id == batch.id
        await validator.validate(claimed)
        return await reload(self.sessions, batch)

    async def lines(self, batch: Batch) -> list[BatchLine]:
        async with self.sessions() as session:
            found = select(BatchLine).where(BatchLine.batch_id == batch.id)
            return list(await session.scalars(found.order_by(BatchLine.number)))


@pytest.fixture
async def scene(sessions: Sessions, service: GenerationService, build: Builder) -> Scene:
    app = await build.app()
    key = await build.key(app)
    caller = Caller(
        tenant_id=app.tenant_id,
        tenant="t",
        app_id=app.id,
        app=app.name,
        api_key_id=key.key.id,
        instruction=None,
    )
    return Scene(sessions, service, caller)


def a_line(custom_id: str, text: str, system: str = LONG, **more: Any) -> bytes:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 5, **more}
    line = {"custom_id": custom_id, "method": "POST", "url": PATH, "body": body}
    return json.dumps(line).encode()


async def test_lines_are_stored_grouped_and_ranked(scene: Scene) -> None:
    lines = [a_line(f"a{n}", f"brave king {n}") for n in range(6)]
    lines[2:2] = [b"", b"no request"]  # the empty one counts as a line number alone
    batch = await scene.validated(await scene.job(lines))
    assert (batch.status, batch.total, batch.failed, batch.owner) == ("in_progress", 7, 1, None)
    stored = await scene.lines(batch)
    assert [line.number for line in stored] == [1, 2, 4, 5, 6, 7, 8]
    assert [line.state for line in stored if line.custom_id is None] == [LineState.FAILED]
    waiting = [line for line in stored if line.state == LineState.WAITING]
    assert sorted(line.rank for line in waiting) == list(range(6))
    (prefix,) = {(line.prefix_id, line.prefix_tokens) for line in waiting}
    assert prefix[0]
    assert prefix[1] % 16 == 0 < prefix[1]
    predicted = sum(line.predicted_tokens for line in waiting)
    own = sum(line.prompt_tokens - line.prefix_tokens for line in waiting)
    assert batch.work == pytest.approx(work_of(predicted, own), rel=1e-6)
    assert batch.sharing
    assert batch.sharing["prompt_tokens"] - batch.sharing["computed_tokens"] == 5 * prefix[1]


def prefixes(lines: list[BatchLine]) -> set[tuple[str | None, int]]:
    return {(line.prefix_id, line.prefix_tokens) for line in lines}


async def test_job_is_planned_with_the_lines_that_wait_in_others(scene: Scene) -> None:
    alone = await scene.validated(await scene.job([a_line("a", "brave king")]))
    assert prefixes(await scene.lines(alone)) == {(None, 0)}
    lines = [a_line(f"b{n}", f"old queen {n}", max_tokens=40) for n in range(2)]
    batch = await scene.validated(await scene.job(lines))
    (prefix,) = prefixes(await scene.lines(batch))
    assert prefix[0]
    (joined,) = await scene.lines(alone)
    assert (joined.prefix_id, joined.prefix_tokens) == prefix
    assert batch.sharing
    saved = batch.sharing["prompt_tokens"] - batch.sharing["computed_tokens"]
    assert saved == pytest.approx(2 * prefix[1] * 2 / 3, abs=1)  # a third is the first job's

    before, after = alone, await reload(scene.sessions, alone)
    assert before.work - after.work == pytest.approx(work_of(0.0, prefix[1]), rel=1e-6)


async def test_lines_that_run_keep_their_prefix(scene: Scene) -> None:
    alone = await scene.validated(await scene.job([a_line("a", "brave king")]))
    async with transaction(scene.sessions) as session:
        await claim_lines(session, MODEL, new_id(), 1)
    await scene.validated(await scene.job([a_line(f"b{n}", f"old queen {n}") for n in range(2)]))
    assert prefixes(await scene.lines(alone)) == {(None, 0)}


async def test_jobs_of_other_tenants_and_page_sizes_are_not_planned_together(
    scene: Scene, sessions: Sessions, build: Builder
) -> None:
    alone = await scene.validated(await scene.job([a_line("a", "brave king")]))
    await change(sessions, alone, page_tokens=32)
    await scene.validated(await scene.job([a_line("b", "old queen")]))
    other = await build.app()
    await change(sessions, alone, page_tokens=16, tenant_id=other.tenant_id, status="in_progress")
    second = await scene.validated(await scene.job([a_line("c", "young queen")]))
    assert prefixes(await scene.lines(alone)) == {(None, 0)}
    assert prefixes(await scene.lines(second)) != {(None, 0)}  # of the second tenant job alone


async def test_job_that_starts_while_another_is_planned_is_planned_with_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await scene.job([a_line("a", "brave king")])
    second = await scene.job([a_line("b", "old queen")])
    plans = 0
    plan = JobPlanner.plan

    async def while_the_other_starts(*given: Any) -> RankedJob:
        nonlocal plans
        plans += 1
        if plans == 1:
            await scene.validated(second)
        return await plan(*given)

    monkeypatch.setattr(JobPlanner, "plan", while_the_other_starts)
    await scene.validated(first)
    assert plans == 3
    (shared,) = prefixes([*await scene.lines(first), *await scene.lines(second)])
    assert shared[0]


async def test_differing_first_text_that_kills_sharing_is_warned_of(scene: Scene) -> None:
    lines = [a_line(f"{n}", "king", f"{n * 7919:05}: {LONG}") for n in range(20)]
    batch = await scene.validated(await scene.job(lines))
    assert batch.sharing
    assert batch.sharing["saved_share"] < 0.2
    assert "differ" in batch.sharing["warning"]


async def test_validation_by_a_gateway_that_lost_it_has_no_effect(scene: Scene) -> None:
    batch = await scene.job([a_line(f"a{n}", "king") for n in range(4)])
    dead = scene.validator()
    claimed = await dead.claim()
    assert claimed is not None
    await change(scene.sessions, batch, owner=None, retry_at=None)  # its lease ended, long ago
    ended = await scene.validated(batch)
    await dead.validate(claimed)
    assert len(await scene.lines(batch)) == 4
    assert ended.total == 4
    assert (await reload(scene.sessions, batch)).status == "in_progress"


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([a_line(str(n), "king") for n in range(51)], "too_many_lines"),
        ([], "empty_file"),
        ([b"{}", b"[]"], "invalid_line"),
        ([b'"' + b"x" * 5000 + b'"'], "line_too_long"),
    ],
    ids=["many", "none", "bad", "long"],
)
async def test_file_without_a_line_that_can_run_fails(
    scene: Scene, lines: list[bytes], code: str
) -> None:
    batch = await scene.validated(await scene.job(lines))
    assert batch.status == "failed"
    assert batch.errors
    assert batch.errors[0]["code"] == code
    assert batch.failed_at is not None
    assert await scene.lines(batch) == []


async def test_file_that_was_deleted_fails_its_job(scene: Scene) -> None:
    batch = await scene.job([a_line("a", "king")])
    await scene.files.delete(batch.tenant_id, batch.input_file_id)
    ended = await scene.validated(batch)
    assert ended.errors
    assert ended.errors[0]["code"] == "file_not_found"


async def test_job_cancelled_while_it_is_validated_ends_cancelled(scene: Scene) -> None:
    batch = await scene.job([a_line("a", "king")])
    validator = scene.validator()
    claimed = await validator.claim()
    assert claimed is not None
    await scene.batches().cancel(batch.tenant_id, batch.id)
    await validator.validate(claimed)
    ending = BatchEnding(scene.sessions, scene.files, MODEL, new_id(), scene.faults)
    job = await ending.claim()
    assert job is not None
    await ending.finish(job)
    ended = await reload(scene.sessions, batch)
    assert (ended.status, ended.total, ended.output_file_id) == ("cancelled", 0, None)


async def test_tenant_has_a_limit_of_open_jobs(scene: Scene) -> None:
    first = await scene.job([a_line("a", "king")])
    await scene.job([a_line("a", "king")])
    with pytest.raises(TenantBatchesFull):
        await scene.job([a_line("a", "king")])
    await change(scene.sessions, first, status="completed")
    await scene.job([a_line("a", "king")])
