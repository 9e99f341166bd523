"""Answers to requests that never reach the application, and their log events."""

import math
import time
from typing import Final

import msgspec
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.api.errors import RETRY_AFTER_S, error_body, status_of
from gateway.errors import LmaasError

LOG_INTERVAL_S: Final = 1.0

log = structlog.get_logger(__name__)


def error_response(
    error: LmaasError, request_id: str, server_headers: list[tuple[bytes, bytes]]
) -> bytes:
    """A whole HTTP response of OpenAI's error shape, after which the connection closes."""
    status, body = status_of(error), msgspec.json.encode(error_body(error))
    headers = [
        *server_headers,
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
    ]
    if status in RETRY_AFTER_S:
        headers.append((b"retry-after", str(RETRY_AFTER_S[status]).encode()))
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return STATUS_LINE[status] + lines + b"\r\n" + body


class RefusalLog:
    """Logs refused requests: at most one event a second of each code, so a flood fills no disk."""

    def __init__(self) -> None:
        self._logged: dict[str | None, float] = {}  # code → when it was last logged
        self._omitted: dict[str | None, int] = {}

    def add(self, error: LmaasError, peer: str, request_id: str) -> None:
        """Log a refusal with the client's address, or count it for the next event of its code."""
        code, now = error.code, time.monotonic()
        if now - self._logged.get(code, -math.inf) < LOG_INTERVAL_S:
            self._omitted[code] = self._omitted.get(code, 0) + 1
            return
        self._logged[code] = now
        log.warning(
            "request_refused",
            code=code,
            reason=error.message,
            peer=peer,
            request_id=request_id,
            omitted=self._omitted.pop(code, 0),
        )
