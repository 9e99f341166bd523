"""The lines of jobs in the database as the source of a gateway's runner."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import structlog
from msgspec import Struct

from gateway.database.errors import Sessions, transaction
from gateway.errors import GenerationFailed, LmaasError, OverLimit, Unavailable
from gateway.generation.request import GenerationRequest
from gateway.generation.request_state import RequestState
from gateway.generation.service import GenerationService
from gateway.jobs.batches.callers import read_callers
from gateway.jobs.batches.claiming import MAX_ATTEMPTS, claim_lines
from gateway.jobs.batches.endpoint import Endpoints, ServedName
from gateway.jobs.batches.output_lines import HTTP_OK, line_id, responded
from gateway.jobs.batches.results import LineResult, owned_elsewhere, write_results
from gateway.jobs.batches.states import LineState
from gateway.scheduling.requests import SharedPrefix
from gateway.tenancy.caller import Caller
from models import Batch, BatchLine

log = structlog.get_logger()

TOKEN_US: Final = 10  # CPU time to decode a token of an answer


class ClaimedLine(Struct, frozen=True, kw_only=True, eq=False):
    """A line that this gateway is to run, as its request."""

    request_id: UUID
    batch_id: UUID
    number: int
    custom_id: str | None
    endpoint: str
    body: bytes
    request: GenerationRequest
    prefix: SharedPrefix | None


class LineEnd(Struct, frozen=True):
    """How a line ended: the states of its choices, or the error that kept it from an answer."""

    line: ClaimedLine
    states: Sequence[RequestState] = ()
    error: LmaasError | None = None


class BatchLines:
    """Claims lines for one gateway and writes what they end with."""

    def __init__(
        self,
        sessions: Sessions,
        service: GenerationService,
        endpoints: Endpoints,
        owner: UUID,
    ) -> None:
        self._sessions = sessions
        self._service = service
        self._endpoints = endpoints
        self._owner = owner

    async def claim(self, count: int) -> list[ClaimedLine]:
        """Up to `count` lines, in the order in which they are to start. DatabaseLost."""
        async with transaction(self._sessions) as session:
            rows = await claim_lines(session, self._service.model, self._owner, count)
            if not rows:
                return []
            jobs = sorted({row.batch_id for row in rows})
            callers = await read_callers(session, jobs)
            paths = {}
            for job in jobs:
                batch = await session.get(Batch, job)
                assert batch is not None, "a line's job exists"
                paths[job] = batch.endpoint
        claimed, unusable = [], []
        for row in rows:
            path = paths[row.batch_id]
            try:
                claimed.append(await self._read(row, path, callers))
            except LmaasError as error:
                unusable.append(self._failed(row.batch_id, row.number, row.custom_id, path, error))
        if unusable:
            await self._write(unusable)
        return claimed

    async def finished(self, ends: Sequence[LineEnd]) -> None:
        """Write the results of lines, all or none; repeating it has no effect. DatabaseLost."""
        await self._write([await self._result(end) for end in ends])

    async def lost(self, lines: Sequence[ClaimedLine]) -> list[ClaimedLine]:
        """Of these lines, those that are not to go on: cancelled, expired or run elsewhere."""
        places = [(line.batch_id, line.number) for line in lines]
        async with transaction(self._sessions) as session:
            gone = await owned_elsewhere(session, self._owner, places)
        return [line for line in lines if (line.batch_id, line.number) in gone]

    async def _write(self, results: Sequence[LineResult]) -> None:
        async with transaction(self._sessions) as session:
            written = await write_results(session, self._owner, results)
        if len(written) < len(results):
            log.info("batch_results_dropped", lines=len(results) - len(written))

    async def _read(self, row: BatchLine, path: str, callers: dict[UUID, Caller]) -> ClaimedLine:
        """The line as a request. LmaasError if it is none any more, or was tried too often."""
        if row.attempts > MAX_ATTEMPTS:
            raise GenerationFailed(f"the line did not end in {MAX_ATTEMPTS} attempts")
        body, caller = row.body, callers[row.batch_id]
        assert body is not None, "a line that waits has a body"
        request = self._endpoints[path].read(body, caller, self._service.model)
        return ClaimedLine(
            request_id=line_id(row.batch_id, row.number),
            batch_id=row.batch_id,
            number=row.number,
            custom_id=row.custom_id,
            endpoint=path,
            body=body,
            request=request,
            prefix=SharedPrefix(row.prefix_id, row.prefix_tokens) if row.prefix_id else None,
        )

    async def _result(self, end: LineEnd) -> LineResult:
        line, error = end.line, end.error or next((s.error for s in end.states if s.error), None)
        if error is not None:
            if isinstance(error, OverLimit | Unavailable):  # it can succeed later
                return LineResult(
                    batch_id=line.batch_id, number=line.number, state=LineState.WAITING
                )
            return self._failed(line.batch_id, line.number, line.custom_id, line.endpoint, error)
        tokens = sum(len(state.tokens) for state in end.states)
        served = ServedName(self._service.model, self._service.fingerprint)
        endpoint = self._endpoints[line.endpoint]
        body = await self._service.workers.finish(
            line.request.caller.tenant_id.hex,
            TOKEN_US * tokens,
            lambda: endpoint.answer(line.body, end.states, served),
        )
        return LineResult(
            batch_id=line.batch_id,
            number=line.number,
            state=LineState.COMPLETED,
            result=responded(line.request_id, line.custom_id, HTTP_OK, body),
            generated_tokens=tokens,
        )

    def _failed(
        self, batch_id: UUID, number: int, custom_id: str | None, path: str, error: LmaasError
    ) -> LineResult:
        status, body = self._endpoints[path].error(error)
        return LineResult(
            batch_id=batch_id,
            number=number,
            state=LineState.FAILED,
            result=responded(line_id(batch_id, number), custom_id, status, body),
        )
