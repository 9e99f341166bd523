"""One log event for each request that the application answered."""

import time
from collections.abc import MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.api.connections.access_log import Exchange
from gateway.api.http_metrics import RECEIVED_S
from tests.integration.api_http.conftest import GET_LIVE, Server, a_post, serving


def accesses(logs: list[MutableMapping[str, Any]]) -> list[MutableMapping[str, Any]]:
    return [each for each in logs if each["event"] == "request_answered"]


def test_event_has_the_route_and_the_bytes_and_probes_are_for_debugging() -> None:
    with capture_logs() as logs, serving() as server:
        response = server.post("/decode", b"[1,2]")
        server.post("/decode?secret=sk-1", b"{")
        assert server.is_live()
    good, bad, probe = accesses(logs)
    assert good.pop("ms") >= 0
    assert good == {
        "event": "request_answered",
        "log_level": "info",
        "method": "POST",
        "route": "/decode",
        "status": 200,
        "code": None,
        "received": 5,
        "sent": len(response.body),
    }
    assert (bad["status"], bad["code"], bad["route"]) == (400, "invalid_value", "/decode")
    assert (probe["log_level"], probe["route"]) == ("debug", "/health/live")


@pytest.mark.parametrize("path", ["/size", "/decode", "/v1/files"])
def test_client_that_closes_in_the_middle_of_its_body_is_no_crash(path: str) -> None:
    with capture_logs() as logs, serving() as server:
        server.send(a_post(path, b"[" + b"1," * 5_000)[:-100]).socket.close()
        while not any(each["log_level"] == "info" for each in accesses(logs)):
            server.send(GET_LIVE).response()
    (event,) = (each for each in accesses(logs) if each["log_level"] == "info")
    assert (event["status"], event["code"], event["received"]) == (499, "client_gone", 9_901)
    assert "request_crashed" not in [each["event"] for each in logs]


def test_stream_that_its_client_cuts_off_says_so(server: Server) -> None:
    with capture_logs() as logs:
        client = server.send(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        client.socket.recv(1 << 16)
        client.socket.close()
        while not any(each["log_level"] == "info" for each in accesses(logs)):
            server.send(GET_LIVE).response()
    (event,) = (each for each in accesses(logs) if each["log_level"] == "info")
    assert (event["status"], event["code"]) == (200, "client_gone")
    assert event["sent"] >= len("piece ")


async def test_a_request_arrives_with_the_end_of_its_body() -> None:
    parts: list[Any] = [
        {"type": "http.request", "body": b"[1,", "more_body": True},
        {"type": "http.request", "body": b"2]", "more_body": False},
    ]

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None: ...

    scope: Any = {"type": "http", "method": "POST", "state": {}}
    exchange = Exchange(scope, receive, send)
    await exchange.receive()
    assert RECEIVED_S not in scope["state"]
    before = time.monotonic()
    await exchange.receive()
    assert before <= scope["state"][RECEIVED_S] <= time.monotonic()
