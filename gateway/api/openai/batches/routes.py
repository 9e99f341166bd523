"""`/v1/batches`: jobs of many requests, whose answers are not needed at once."""

from typing import Annotated, TypeAlias

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter

from gateway.api.openai.batches.schema import (
    BatchAnswer,
    BatchList,
    BatchRequest,
    batch_uuid,
    cursor_of,
)
from gateway.api.openai.files.schema import file_id_of
from gateway.api.openapi import errors
from gateway.generation.service import GenerationService
from gateway.jobs.batches.jobs import BatchJobs
from gateway.jobs.batches.progress.samples import completion_of
from gateway.tenancy.authentication import Caller
from gateway.tenancy.paging import DEFAULT_LIMIT, MAX_LIMIT
from models import Batch

Limit: TypeAlias = Annotated[
    int, QueryParameter(ge=1, le=MAX_LIMIT, description="most items wanted")
]
AfterBatch: TypeAlias = Annotated[
    str | None, QueryParameter(description="last id of the previous page; unset: the first page")
]


class BatchesController(Controller):
    """Creates, lists, shows and cancels batches of the caller's tenant."""

    path = "/batches"

    @post(status_code=200, summary="Create a batch", responses=errors(404))
    async def create_batch(
        self,
        data: JSONBody[BatchRequest],
        caller: NamedDependency[Caller],
        jobs: NamedDependency[BatchJobs],
    ) -> BatchAnswer:
        """The batch, which is validated next; 404 if the tenant has no such file."""
        file = await jobs.files.show(caller.tenant_id, file_id_of(data.input_file_id))
        return BatchAnswer.of(await jobs.batches.create(caller, data.to_new(file)), None)

    @get(summary="List batches")
    async def list_batches(
        self,
        caller: NamedDependency[Caller],
        jobs: NamedDependency[BatchJobs],
        service: NamedDependency[GenerationService],
        limit: Limit = DEFAULT_LIMIT,
        after: AfterBatch = None,
    ) -> BatchList:
        """The tenant's batches, newest first."""
        page = await jobs.batches.list(caller.tenant_id, cursor_of(limit, after))
        data = await batch_answers(page.items, jobs, service)
        return BatchList(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=page.more,
        )

    @get("/{batch_id:str}", summary="Show a batch")
    async def show_batch(
        self,
        batch_id: FromPath[str],
        caller: NamedDependency[Caller],
        jobs: NamedDependency[BatchJobs],
        service: NamedDependency[GenerationService],
    ) -> BatchAnswer:
        """A batch, with when it is expected to be done; 404 for another tenant's."""
        batch = await jobs.batches.show(caller.tenant_id, batch_uuid(batch_id))
        return (await batch_answers([batch], jobs, service))[0]

    @post(
        "/{batch_id:str}/cancel", status_code=200, summary="Cancel a batch", responses=errors(409)
    )
    async def cancel_batch(
        self,
        batch_id: FromPath[str],
        caller: NamedDependency[Caller],
        jobs: NamedDependency[BatchJobs],
    ) -> BatchAnswer:
        """The batch, which is cancelled soon after; what was completed is in its output file."""
        batch = await jobs.batches.cancel(caller.tenant_id, batch_uuid(batch_id))
        return BatchAnswer.of(batch, None)


async def batch_answers(
    batches: list[Batch], jobs: BatchJobs, service: GenerationService
) -> list[BatchAnswer]:
    """Jobs as clients see them, with when they are expected to be done."""
    ahead, pace = await jobs.batches.work_before(batches), service.scheduler.load.pace
    calibration = await jobs.calibrations.current()
    return [
        BatchAnswer.of(
            batch, completion_of(batch, calibration, ahead=ahead.get(batch.id, 0.0), pace=pace)
        )
        for batch in batches
    ]
