"""The lines of a job's output file and error file, in OpenAI's format."""

from typing import Any, Final
from uuid import UUID, uuid5

import msgspec
from msgspec import Raw, Struct

HTTP_OK: Final = 200
EXPIRED: Final = "batch_expired"
CANCELLED: Final = "batch_cancelled"

_encode: Final = msgspec.json.Encoder().encode


class LineResponse(Struct, frozen=True):
    """What the endpoint answered to a line; `request_id` is the request's id in history."""

    status_code: int
    request_id: str
    body: Any


class LineError(Struct, frozen=True):
    """Why a line has no response."""

    code: str | None
    message: str


class OutputLine(Struct, frozen=True):
    """A line of the output file or of the error file; it has a response or an error."""

    id: str
    custom_id: str | None
    response: LineResponse | None
    error: LineError | None


def line_id(batch_id: UUID, number: int) -> UUID:
    """The id of a line's request: the same on every gateway and in every attempt."""
    return uuid5(batch_id, str(number))


def responded(request_id: UUID, custom_id: str | None, status: int, body: bytes) -> bytes:
    """A line with a response, whose body is JSON."""
    response = LineResponse(status, request_id.hex, Raw(body))
    return _line(request_id, custom_id, response, None)


def unanswered(request_id: UUID, custom_id: str | None, code: str | None, message: str) -> bytes:
    """A line without a response."""
    return _line(request_id, custom_id, None, LineError(code, message))


def _line(
    request_id: UUID,
    custom_id: str | None,
    response: LineResponse | None,
    error: LineError | None,
) -> bytes:
    found = OutputLine(f"batch_req_{request_id.hex}", custom_id, response, error)
    return _encode(found) + b"\n"
