"""The lines of jobs in the database as the source of a gateway's runner."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, MutableMapping, Sequence
from functools import partial
from typing import Final, TypeAlias
from uuid import UUID

import structlog
from msgspec.structs import replace
from sqlalchemy import func, select, tuple_
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import Sessions, transaction
from gateway.database.translation import is_refused
from gateway.errors import GenerationFailed, LmaasError, OverLimit, Unavailable
from gateway.generation.answer import work_us_of
from gateway.generation.request import GenerationRequest, RecordKey
from gateway.generation.request_state import RequestState
from gateway.generation.service import GenerationService
from gateway.history.requests import made_at
from gateway.jobs.batches.callers import read_callers
from gateway.jobs.batches.claims.attempts import is_outage
from gateway.jobs.batches.claims.claiming import MAX_ATTEMPTS, claim_lines
from gateway.jobs.batches.claims.companions import Place
from gateway.jobs.batches.endpoint import Endpoint, Endpoints, ServedName
from gateway.jobs.batches.output_lines import HTTP_OK, line_id, responded
from gateway.jobs.batches.portions import PORTION_BYTES, portions
from gateway.jobs.batches.results import LineResult, owned_elsewhere, write_results
from gateway.jobs.batches.states import LineState
from gateway.jobs.runner import JobLine, LineOutcome, LineSource
from gateway.scheduling.requests import SharedPrefix
from gateway.tenancy.caller import Caller
from models import Batch, BatchLine

log = structlog.get_logger()

BYTES_PER_US: Final = 64  # of CPU time, to read a body
MAX_RESULT_BYTES: Final = 64 << 20
UNKNOWN: Final = PORTION_BYTES  # the size of what cannot be read

_Body: TypeAlias = bytes | SQLAlchemyError | None  # of a line, or why it cannot be read


class ClaimedLine(JobLine, frozen=True, kw_only=True, eq=False):
    """A line that this gateway is to run, as its request, and what its answer needs of its body."""

    batch_id: UUID
    number: int
    custom_id: str | None
    endpoint: str
    kept: bytes


class BatchLines(LineSource):
    """Claims lines for one gateway and writes what they end with."""

    def __init__(
        self,
        sessions: Sessions,
        service: GenerationService,
        endpoints: Endpoints,
        owner: UUID,
        faults: MutableMapping[str, int],
        observe: Callable[[UUID, RequestState], None] = lambda _, __: None,
    ) -> None:
        """`faults` counts lines that failed for what was not foreseen.

        `observe` is called with the first choice of each line that was answered.
        """
        self._sessions = sessions
        self._service = service
        self._endpoints = endpoints
        self._owner = owner
        self._faults = faults
        self._observe = observe
        self._held: set[tuple[UUID, int]] = set()  # what the runner has
        self._results: dict[JobLine, LineResult] = {}  # of outcomes that are not written yet
        self._reading: dict[JobLine, asyncio.Task[LineResult]] = {}
        self._doubtful = False  # whether lines may be claimed that the runner does not have

    async def claim(self, count: int, without: Collection[UUID] = ()) -> Sequence[JobLine]:
        """Up to `count` lines, in the order in which they are to start. DatabaseLost.

        Lines of the apps `without` are left out.

        If the answer to an earlier claim was lost, first the lines that it claimed. A line that the
        database cannot read fails.
        """
        doubtful, self._doubtful = self._doubtful, True
        async with transaction(self._sessions) as session:
            rows = await self._unknown(session) if doubtful else []
            model, owner = self._service.model, self._owner
            rows = rows or await claim_lines(session, model, owner, count, without)
            jobs = sorted({row.batch_id for row in rows})
            callers = await read_callers(session, jobs)
            found = await session.scalars(select(Batch).where(Batch.id.in_(jobs)))
            batches = {batch.id: batch for batch in found}
        claimed: list[JobLine] = []
        unusable: list[LineResult] = []
        async for row, body in self._with_bodies(rows):
            batch = batches[row.batch_id]
            try:
                claimed.append(await self._read(row, body, batch, callers[batch.id]))
            except Exception as error:  # noqa: BLE001  the other lines run
                failure = self._failure(error, batch.id, row.number)
                unusable.append(
                    self._failed(batch.id, row.number, row.custom_id, batch.endpoint, failure)
                )
        if unusable:
            await self._write(unusable)
        self._held.update(_place(_claimed(line)) for line in claimed)
        self._doubtful = False
        return claimed

    async def finished(self, outcomes: Sequence[LineOutcome]) -> None:
        """Write the results of lines; repeating it has no effect. DatabaseLost."""
        for outcome in outcomes:
            if outcome.line not in self._results:
                self._results[outcome.line] = await self._read_once(outcome)
        try:
            results = [self._results[outcome.line] for outcome in outcomes]
            for portion in portions(results, _size):
                await self._write(portion)
        except SQLAlchemyError as error:
            if not is_refused(error):
                raise
            for outcome in outcomes:
                await self._write_alone(outcome.line)
        for outcome in outcomes:
            result = self._results.pop(outcome.line)
            if result.state == LineState.COMPLETED:
                self._observe(result.batch_id, outcome.states[0])

    async def release(self, lines: Sequence[JobLine]) -> None:
        """Let lines that have not ended wait again. DatabaseLost."""
        await self._write([_again(_claimed(line)) for line in lines])

    async def lost(self, lines: Sequence[JobLine]) -> Sequence[JobLine]:
        """Of these lines, those that are not to go on: cancelled, expired or run elsewhere."""
        by_place = {_place(_claimed(line)): line for line in lines}
        async with transaction(self._sessions) as session:
            gone = await owned_elsewhere(session, self._owner, list(by_place))
        self._held -= gone
        return [line for place, line in by_place.items() if place in gone]

    async def _unknown(self, session: AsyncSession) -> list[BatchLine]:
        """Lines of this gateway that its runner does not have."""
        ours = select(BatchLine).where(
            BatchLine.claimed_by == self._owner, BatchLine.state == LineState.RUNNING
        )
        rows = await session.scalars(ours.order_by(BatchLine.batch_id, BatchLine.rank))
        return [row for row in rows if _row_place(row) not in self._held]

    async def _with_bodies(
        self, rows: Sequence[BatchLine]
    ) -> AsyncGenerator[tuple[BatchLine, _Body], None]:
        """The lines with their bodies, of which few are in memory at once. DatabaseLost.

        Those whose job ended meanwhile are left out.
        """
        sizes = await self._sizes([_row_place(row) for row in rows])
        for portion in portions(rows, lambda row: sizes.get(_row_place(row), UNKNOWN)):
            bodies = await self._bodies([_row_place(row) for row in portion])
            for row in portion:
                if _row_place(row) in bodies:
                    yield row, bodies[_row_place(row)]

    async def _sizes(self, places: Sequence[Place]) -> dict[Place, int]:
        """The bytes of the bodies of these lines, as far as they are known. DatabaseLost."""
        if not places:
            return {}
        size = func.octet_length(BatchLine.body)
        wanted = select(BatchLine.batch_id, BatchLine.number, size).where(
            tuple_(BatchLine.batch_id, BatchLine.number).in_(places)
        )
        try:
            async with transaction(self._sessions) as session:
                rows = (await session.execute(wanted)).all()
        except SQLAlchemyError as error:
            if not is_refused(error):
                raise
            return {}
        return {(batch_id, number): bytes_ or 0 for batch_id, number, bytes_ in rows}

    async def _bodies(self, places: Sequence[Place]) -> dict[Place, _Body]:
        """The bodies of the lines at these places, as far as there are such lines. DatabaseLost.

        They are read apart from the claim, which one that cannot be read would undo.
        """
        try:
            return await self._read_bodies(places)
        except SQLAlchemyError as error:
            if not is_refused(error):
                raise
        bodies: dict[Place, _Body] = {}
        for place in places:
            try:
                bodies |= await self._read_bodies([place])
            except SQLAlchemyError as error:
                if not is_refused(error):
                    raise
                bodies[place] = error
        return bodies

    async def _read_bodies(self, places: Sequence[Place]) -> dict[Place, _Body]:
        if not places:
            return {}
        wanted = select(BatchLine.batch_id, BatchLine.number, BatchLine.body).where(
            tuple_(BatchLine.batch_id, BatchLine.number).in_(places)
        )
        async with transaction(self._sessions) as session:
            return {(row.batch_id, row.number): row.body for row in await session.execute(wanted)}

    async def _write(self, results: Sequence[LineResult]) -> None:
        async with transaction(self._sessions) as session:
            written = await write_results(session, self._owner, results)
        self._held -= {(result.batch_id, result.number) for result in results}
        if len(written) < len(results):
            log.info("batch_results_dropped", lines=len(results) - len(written))

    async def _write_alone(self, line: JobLine) -> None:
        """Write a line's result; the line fails if the database refuses it.

        If it refuses that too, the line stays as it is until its job ends.
        """
        error = await self._refusal(line)
        if error is None:
            return
        self._results[line] = self._failed_line(line, error)
        if await self._refusal(line) is not None:
            log.error("batch_line_not_ended", request=str(line.key.id))

    async def _refusal(self, line: JobLine) -> SQLAlchemyError | None:
        """Write a line's result; the error by which the database refuses it, if it does."""
        try:
            await self._write([self._results[line]])
        except SQLAlchemyError as error:
            if is_refused(error):
                return error
            raise
        return None

    async def _read(self, row: BatchLine, body: _Body, batch: Batch, caller: Caller) -> ClaimedLine:
        """The line as a request. LmaasError if it is none any more, or was tried too often."""
        if row.attempts > MAX_ATTEMPTS:
            raise GenerationFailed(f"the line did not end in {MAX_ATTEMPTS} attempts")
        if isinstance(body, SQLAlchemyError):
            raise body
        assert body is not None, "a line that waits has a body"
        endpoint = self._endpoints[batch.endpoint]
        read = partial(_request_and_kept, endpoint, body, caller, self._service.model)
        work_us = len(body) // BYTES_PER_US
        request, kept = await self._service.workers.finish(caller.tenant_id.hex, work_us, read)
        prefix = SharedPrefix(row.prefix_id, row.prefix_tokens) if row.prefix_id else None
        return ClaimedLine(
            key=RecordKey(line_id(batch.id, row.number), made_at(batch.id)),
            request=replace(request, lane="batch", prefix=prefix),
            batch_id=batch.id,
            number=row.number,
            custom_id=row.custom_id,
            endpoint=batch.endpoint,
            kept=kept,
        )

    async def _read_once(self, outcome: LineOutcome) -> LineResult:
        """The result of an outcome.

        An answer can be read once: if this is cancelled, the reading goes on, and the next call
        returns what it read.
        """
        line = outcome.line
        reading = self._reading.get(line) or asyncio.create_task(self._readable(outcome))
        self._reading[line] = reading
        try:
            return await asyncio.shield(reading)
        finally:
            if reading.done():
                del self._reading[line]

    async def _readable(self, outcome: LineOutcome) -> LineResult:
        """The result; that of a failure if the answer cannot be made into one."""
        try:
            return await self._result(outcome)
        except Exception as error:
            if is_outage(error):
                raise
            return self._failed_line(outcome.line, error)

    def _failed_line(self, line: JobLine, error: Exception) -> LineResult:
        line = _claimed(line)
        failure = self._failure(error, line.batch_id, line.number)
        return self._failed(line.batch_id, line.number, line.custom_id, line.endpoint, failure)

    def _failure(self, error: Exception, batch_id: UUID, number: int) -> LmaasError:
        """The error as a line's own; what was not foreseen is logged and counted."""
        if isinstance(error, LmaasError):
            return error
        self._faults["line"] += 1
        log.error("batch_line_failed", batch=str(batch_id), line=number, exc_info=error)
        return GenerationFailed("the gateway failed on the line; it has logged why")

    async def _result(self, outcome: LineOutcome) -> LineResult:
        line, error = _claimed(outcome.line), outcome.failure
        if isinstance(error, OverLimit | Unavailable):
            return _again(line)  # it can succeed later
        if error is not None:
            return self._failed(line.batch_id, line.number, line.custom_id, line.endpoint, error)
        tokens = sum(len(state.tokens) for state in outcome.states)
        served = ServedName(self._service.model, self._service.fingerprint)
        answer = partial(self._endpoints[line.endpoint].answer, line.kept, outcome.states, served)
        work_us = sum(map(work_us_of, outcome.states))
        body = await self._service.workers.finish(
            line.request.caller.tenant_id.hex, work_us, answer
        )
        if len(body) > MAX_RESULT_BYTES:
            raise GenerationFailed(
                f"the answer has {len(body)} bytes as JSON; accepted in a batch are at most "
                f"{MAX_RESULT_BYTES}: ask for fewer choices or log probabilities"
            )
        return LineResult(
            batch_id=line.batch_id,
            number=line.number,
            state=LineState.COMPLETED,
            result=responded(line.key.id, line.custom_id, HTTP_OK, body),
            generated_tokens=tokens,
            cached_tokens=outcome.states[0].cached_tokens or 0,
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


def _claimed(line: JobLine) -> ClaimedLine:
    assert isinstance(line, ClaimedLine), "the runner returns the lines that it was given"
    return line


def batch_of(line: JobLine) -> UUID:
    """The job of a line."""
    return _claimed(line).batch_id


def _request_and_kept(
    endpoint: Endpoint, body: bytes, caller: Caller, model: str
) -> tuple[GenerationRequest, bytes]:
    return endpoint.read(body, caller, model), endpoint.kept(body)


def _size(result: LineResult) -> int:
    return len(result.result or b"")


def _row_place(row: BatchLine) -> Place:
    return row.batch_id, row.number


def _place(line: ClaimedLine) -> tuple[UUID, int]:
    return line.batch_id, line.number


def _again(line: ClaimedLine) -> LineResult:
    """The line waits again."""
    return LineResult(batch_id=line.batch_id, number=line.number, state=LineState.WAITING)
