"""Refusals before the application: their responses, log events and counts."""

import math
import time
from typing import Final

import msgspec
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.api.errors import RETRY_AFTER_S, error_body, status_of
from gateway.api.http_metrics import SILENT, HttpMetrics
from gateway.errors import LmaasError

LOG_INTERVAL_S: Final = 1.0

log = structlog.get_logger(__name__)


class Refusals:
    """Counts refused requests and connections of a server, and logs them.

    Of each code at most one event a second is logged, so a flood fills no disk.
    """

    def __init__(self, metrics: HttpMetrics) -> None:
        self._metrics = metrics
        self._logged: dict[str | None, float] = {}  # code → when it was last logged
        self._omitted: dict[str | None, int] = {}

    def add(
        self, error: LmaasError, peer: str, request_id: str, *, reason: str | None = None
    ) -> None:
        """Log a refusal with the client's address, or count it for the next event of its code.

        `reason` is that of the metrics; the error's code by default.
        """
        self._metrics.refused(reason or str(error.code))
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

    def add_silent(self) -> None:
        """Count a connection that is closed because it never sent a byte; no event is logged."""
        self._metrics.refused(SILENT)

    def response(
        self, error: LmaasError, request_id: str, server_headers: list[tuple[bytes, bytes]]
    ) -> bytes:
        """The whole response to a refused request, after which the connection closes; counts it."""
        self._metrics.responded_without_application(status_of(error), error.code)
        return error_response(error, request_id, server_headers)


def error_response(
    error: LmaasError, request_id: str, server_headers: list[tuple[bytes, bytes]]
) -> bytes:
    """A whole HTTP response of OpenAI's error shape."""
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
