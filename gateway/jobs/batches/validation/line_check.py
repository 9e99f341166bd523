"""Checks a line of a job's input file as its endpoint checks a request, and predicts its length."""

import asyncio
from functools import partial
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Raw, Struct

from gateway.errors import (
    InvalidRequest,
    LmaasError,
    OverLimit,
    RequestTooLarge,
    Unavailable,
    shortened,
)
from gateway.generation.service import GenerationService, PreparedRequest
from gateway.jobs.batches.endpoint import Endpoint
from gateway.jobs.batches.limits import BatchLimits
from gateway.jobs.batches.output_lines import line_id, responded, unanswered
from gateway.tenancy.caller import Caller

MAX_CUSTOM_ID: Final = 512  # characters
RETRY_S: Final = 1.0  # when the gateway is too busy for a line, or its engine is away
VALUE_US: Final = 2  # CPU time to decode, screen and convert a key or value
BYTES_PER_US: Final = 256  # the same, of the bytes
INVALID_LINE: Final = "invalid_line"
DUPLICATE: Final = "duplicate_custom_id"


class RequestLine(Struct, frozen=True):
    """A line of an input file."""

    custom_id: str
    method: str
    url: str
    body: Raw


class LineProblem(Struct, frozen=True):
    """Why a line is not going to run; OpenAI's form of an entry in a batch's `errors`."""

    code: str | None
    line: int
    message: str
    param: str | None = None


class CheckedLine(Struct, frozen=True, kw_only=True):
    """A line with what its request was prepared to, or with a problem and its error file line."""

    number: int
    custom_id: str | None = None
    body: bytes | None = None
    prepared: PreparedRequest | None = None
    problem: LineProblem | None = None
    result: bytes | None = None


class ReadLine(Struct, frozen=True):
    """A numbered line of the file, and why it is no request, if it is none."""

    number: int
    line: RequestLine | None
    problem: LineProblem | None = None


class LineCheck:
    """Checks the lines of one job, whose `custom_id`s must differ."""

    def __init__(
        self,
        batch_id: UUID,
        path: str,
        caller: Caller,
        endpoint: Endpoint,
        service: GenerationService,
        limits: BatchLimits,
    ) -> None:
        self._batch_id = batch_id
        self._path = path
        self._caller = caller
        self._endpoint = endpoint
        self._service = service
        self._limits = limits
        self._seen: set[str] = set()

    def read(self, number: int, raw: bytes) -> ReadLine:
        """The request of a line; one that is too long is not read."""
        if len(raw) > self._limits.line_bytes:
            reason = f"the line is longer than {self._limits.line_bytes} bytes"
            return ReadLine(number, None, LineProblem("line_too_long", number, reason))
        try:
            line = msgspec.json.decode(raw, type=RequestLine)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return ReadLine(number, None, LineProblem(INVALID_LINE, number, _explained(error)))
        problem = self._problem(number, line)
        if problem is None:
            self._seen.add(line.custom_id)
        return ReadLine(number, line, problem)

    async def check(self, read: ReadLine) -> CheckedLine:
        """The line, ready to be inserted. Waits while the gateway cannot check it."""
        line, request_id = read.line, line_id(self._batch_id, read.number)
        custom_id = _storable(line.custom_id) if line else None
        if line is None or read.problem is not None:
            problem = read.problem
            assert problem is not None, "what is no request has a problem"
            result = unanswered(request_id, custom_id, problem.code, problem.message)
            return CheckedLine(
                number=read.number, custom_id=custom_id, problem=problem, result=result
            )
        body = bytes(line.body)
        try:
            prepared = await self._prepared(body)
        except LmaasError as error:
            status, shown = self._endpoint.error(error)
            return CheckedLine(
                number=read.number,
                custom_id=custom_id,
                problem=LineProblem(error.code, read.number, error.message, error.param),
                result=responded(request_id, custom_id, status, shown),
            )
        return CheckedLine(number=read.number, custom_id=custom_id, body=body, prepared=prepared)

    def _problem(self, number: int, line: RequestLine) -> LineProblem | None:
        if not 0 < len(line.custom_id) <= MAX_CUSTOM_ID or "\0" in line.custom_id:
            reason = f"accepted are 1 to {MAX_CUSTOM_ID} characters without NUL"
            return LineProblem(INVALID_LINE, number, f"custom_id: {reason}", "custom_id")
        if line.method != "POST":
            reason = f"method is {shortened(line.method)!r}; accepted is 'POST'"
            return LineProblem(INVALID_LINE, number, reason, "method")
        if line.url != self._path:
            reason = f"url is {shortened(line.url)!r}; this batch's endpoint is {self._path!r}"
            return LineProblem("mismatched_url", number, reason, "url")
        if line.custom_id in self._seen:
            reason = f"custom_id {shortened(line.custom_id)!r} is in an earlier line already"
            return LineProblem(DUPLICATE, number, reason, "custom_id")
        return None

    async def _prepared(self, body: bytes) -> PreparedRequest:
        values = await self._endpoint.count_values(body, self._limits.line_values)
        if values > self._limits.line_values:
            raise RequestTooLarge(
                f"the body has {values} JSON keys and values; at most {self._limits.line_values} "
                "are accepted"
            )
        work_us = VALUE_US * values + len(body) // BYTES_PER_US
        read = partial(self._endpoint.read, body, self._caller, self._service.model)
        request = await self._service.workers.finish(self._caller.tenant_id.hex, work_us, read)
        if request.memory != "device":
            raise InvalidRequest(
                f"memory is {request.memory!r}; lines of a batch have theirs on the device: leave "
                "it out",
                param="memory",
            )
        while True:
            try:
                return await self._service.prepare(request)
            except (OverLimit, Unavailable):
                await asyncio.sleep(RETRY_S)


def _storable(custom_id: str) -> str:
    """What can be stored of an id that may be invalid."""
    return custom_id.replace("\0", "")[:MAX_CUSTOM_ID]


def _explained(error: Exception) -> str:
    """Why a line is no request."""
    reason = shortened(str(error))
    return f"the line is no request: {reason[:1].lower()}{reason[1:]}"
