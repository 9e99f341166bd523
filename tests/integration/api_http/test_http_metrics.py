"""Every response and refused connection is counted once: by the application or the connection."""

import pytest

from tests.integration.api_http.conftest import GET_LIVE_AGAIN, Server, a_post, serving

SHORT_S = 0.2
RESPONSES = "lmaas_http_responses_total"
REFUSED = "lmaas_refused_connections_total"


def responses(server: Server) -> dict[tuple[str, str, str], float]:
    """The counts by route, status and code."""
    return {
        (sample.labels["route"], sample.labels["status"], sample.labels["code"]): sample.value
        for family in server.registry.collect()
        for sample in family.samples
        if sample.name == RESPONSES
    }


def test_responses_are_counted_by_route_status_and_code() -> None:
    with serving() as server:
        assert server.is_live()
        for path in ("/nowhere", "/else/where"):
            assert server.post(path, b"").status == 404
        assert server.post("/health/live", b"").status == 405
        assert server.post("/decode", b"{").status == 400
        assert server.post("/size", b"x" * (2 << 20)).status == 413
        assert responses(server) == {
            ("/health/live", "200", ""): 1,
            ("none", "404", "not_found"): 2,
            ("none", "405", "method_not_allowed"): 1,
            ("/decode", "400", "invalid_value"): 1,
            ("/size", "413", "request_too_large"): 1,
        }


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        pytest.param(b"EHLO mail\r\n\r\n", 400, "malformed_request", id="malformed"),
        pytest.param(b"GET /" + b"x" * (96 << 10), 431, "headers_too_large", id="large"),
        pytest.param(b"GET / HT", 408, "headers_timeout", id="slow headers"),
        pytest.param(a_post("/size", b"xx")[:-1], 408, "body_timeout", id="slow body"),
    ],
)
def test_refusal_by_the_connection_is_one_response_and_one_reason(
    data: bytes, status: int, reason: str
) -> None:
    with serving(header_timeout_s=SHORT_S, body_timeout_s=SHORT_S) as server:
        response = server.send(data).response()
        assert response.status == status
        assert server.is_live()  # by then the application has noticed the end of its request
        assert responses(server) == {
            ("none", str(status), response.error["code"]): 1,
            ("/health/live", "200", ""): 1,
        }
        assert server.count(REFUSED, reason=reason) == 1


def test_connection_that_never_sent_a_byte_is_counted() -> None:
    with serving(header_timeout_s=SHORT_S) as server:
        assert server.connect().read_until_closed() == b""
        assert server.count(REFUSED, reason="silent") == 1
        assert responses(server) == {}


def test_connections_at_the_limit_are_counted_by_what_became_of_them() -> None:
    with serving(connections=1, header_timeout_s=20) as server:
        idle = server.send(GET_LIVE_AGAIN)
        assert idle.next_response().status == 200
        held = server.send(b"GET / HT")
        assert idle.read_until_closed() == b""
        assert server.count(REFUSED, reason="evicted") == 1
        over = server.send(b"GET / HT")
        assert server.connect().read_until_closed() == b""
        assert server.count(REFUSED, reason="rejected") == 1
        assert server.count("lmaas_open_connections") == 2
        assert over.send(b"TP/1.1\r\nHost: x\r\n\r\n").response().status == 503
        assert server.count(REFUSED, reason="too_many_connections") == 1
        assert responses(server)["none", "503", "too_many_connections"] == 1
        held.socket.close()
