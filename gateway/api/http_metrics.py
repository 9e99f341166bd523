"""Prometheus metrics of HTTP: responses by route and error code, and connections."""

from collections.abc import Mapping, Sized
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge

NO_ROUTE: Final = "none"  # of a response to a request that no route answered
ERROR_CODE: Final = "error_code"  # key in the scope's state: the code in the response's error
ANSWERED: Final = "answered_by_connection"  # key in the scope's state: no other response is sent

RECEIVED_S: Final = "received_s"  # key in the scope's state: when its body had come, monotonic
GENERATION: Final = "generation"  # key in the scope's state: the id of the request in history
GONE: Final = "client_gone"  # key in the scope's state: the client closed before the end

# A refusal's error code is its reason, except for timeouts and for those without a response.
REJECTED: Final = "rejected"
SILENT: Final = "silent"
EVICTED: Final = "evicted"
DOWNLOAD_TIMEOUT: Final = "download_timeout"
REASONS: Final = (
    "headers_too_large",
    "malformed_request",
    "too_many_connections",
    "headers_timeout",
    "body_timeout",
    DOWNLOAD_TIMEOUT,
    REJECTED,
    SILENT,
    EVICTED,
)


class HttpMetrics:
    """Series of one server; their labels are routes, statuses, codes and reasons of our own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._responses = Counter(
            "lmaas_http_responses",
            "Responses by route template, status and code of the error; empty without an error.",
            ["route", "status", "code"],
            registry=registry,
        )
        self._refused = Counter(
            "lmaas_refused_connections",
            "Connections ended by a bound, by reason.",
            ["reason"],
            registry=registry,
        )
        for reason in REASONS:
            self._refused.labels(reason)

    def responded(self, scope: Mapping[str, Any], status: int) -> None:
        """The application began a response to the request of this ASGI scope."""
        state = scope.get("state", {})
        if not state.get(ANSWERED):
            route = scope.get("path_template") or NO_ROUTE
            self._responses.labels(route, str(status), state.get(ERROR_CODE) or "").inc()

    def refused(self, reason: str) -> None:
        """A bound ended a connection for one of `REASONS`."""
        assert reason in REASONS, reason
        self._refused.labels(reason).inc()

    def responded_without_application(self, status: int, code: str | None) -> None:
        """A connection was answered before the application could."""
        self._responses.labels(NO_ROUTE, str(status), code or "").inc()

    def count_open(self, connections: Sized) -> None:
        """Export the number of these connections, read at each scrape. Call it once."""
        gauge = Gauge(
            "lmaas_open_connections",
            "Open connections, those over the limit included.",
            registry=self._registry,
        )
        gauge.set_function(lambda: len(connections))
