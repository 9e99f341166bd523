"""Batches: the jobs of the viewer's tenant, their progress, ends as bands, savings and errors."""

from datetime import UTC, datetime
from typing import Annotated, Final

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream
from msgspec import Struct

from gateway.api.openai.batches.routes import batch_answers
from gateway.api.openai.batches.schema import BatchAnswer, batch_uuid, cursor_of
from gateway.api.openai.files.routes import content_of
from gateway.api.openai.files.schema import file_id_of
from gateway.api.validation import STORABLE
from gateway.dashboard.access.guard import CHATS, Looking, page_of
from gateway.dashboard.access.sessions import Session
from gateway.dashboard.view.headers import HEADERS
from gateway.dashboard.view.templates import fragment, page
from gateway.files.store import FileStore
from gateway.generation.service import GenerationService
from gateway.jobs.batches.jobs import BatchJobs
from gateway.tenancy.authentication import Caller

ROWS: Final = 20
ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})

After = Annotated[str | None, QueryParameter(pattern=STORABLE, max_length=100)]


class BatchRow(Struct, frozen=True):
    """A batch; times are seconds from now."""

    it: BatchAnswer
    made: datetime
    done: float
    failed: float
    ends: tuple[float, float] | None
    problem: str


class BatchesPageController(Controller):
    """Shows the batches of the tenant whose app's key the session has."""

    path = "/page/batches"
    opt = page_of(anyone=True) | {CHATS: True}

    @get("/")
    async def show(
        self,
        viewer: Looking,
        session: NamedDependency[Session],
        caller: NamedDependency[Caller],
        jobs: NamedDependency[BatchJobs],
        service: NamedDependency[GenerationService],
        after: After = None,
    ) -> Response[str]:
        """The page."""
        rows, more = await _rows(caller, jobs, service, after)
        return page(
            "batches.html",
            viewer,
            session,
            path=self.path,
            rows=rows,
            more=more,
            after=after or "",
            tenant=caller.tenant,
        )

    @get("/rows")
    async def show_rows(
        self,
        caller: NamedDependency[Caller],
        jobs: NamedDependency[BatchJobs],
        service: NamedDependency[GenerationService],
        after: After = None,
    ) -> Response[str]:
        """The batches, which the page asks for every few seconds."""
        rows, more = await _rows(caller, jobs, service, after)
        return fragment("batch_rows.html", rows=rows, more=more, after=after or "")

    @post("/{batch_id:str}/cancel", status_code=200)
    async def cancel(
        self,
        batch_id: FromPath[str],
        caller: NamedDependency[Caller],
        jobs: NamedDependency[BatchJobs],
        service: NamedDependency[GenerationService],
    ) -> Response[str]:
        """Cancel a batch, as `POST /v1/batches/{id}/cancel` does."""
        await jobs.batches.cancel(caller.tenant_id, batch_uuid(batch_id))
        rows, more = await _rows(caller, jobs, service, None)
        return fragment("batch_rows.html", rows=rows, more=more, after="")

    @get("/files/{file_id:str}")
    async def download(
        self,
        file_id: FromPath[str],
        caller: NamedDependency[Caller],
        files: NamedDependency[FileStore],
    ) -> Stream:
        """An output or error file of the tenant."""
        answer = content_of(await files.show(caller.tenant_id, file_id_of(file_id)), files)
        answer.headers.update(HEADERS)
        return answer


async def _rows(
    caller: Caller, jobs: BatchJobs, service: GenerationService, after: str | None
) -> tuple[list[BatchRow], str | None]:
    """The rows, and where the next page begins, if there is one."""
    found = await jobs.batches.list(caller.tenant_id, cursor_of(ROWS, after or None))
    rows = [_row(each) for each in await batch_answers(found.items, jobs, service)]
    return rows, rows[-1].it.id if found.more and rows else None


def _row(it: BatchAnswer) -> BatchRow:
    total, now_s = max(it.request_counts.total, 1), datetime.now(UTC).timestamp()
    expected = it.expected_completion
    problems = it.errors.data if it.errors else []
    first = problems[0] if problems else None
    return BatchRow(
        it,
        datetime.fromtimestamp(it.created_at, UTC),
        done=it.request_counts.completed / total,
        failed=it.request_counts.failed / total,
        ends=None
        if expected is None or it.status in ENDED
        else (max(expected.p10 - now_s, 0.0), max(expected.p90 - now_s, 0.0)),
        problem="" if first is None else f"line {first.line or 0}: {first.message}",
    )
