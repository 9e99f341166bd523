"""What a connection may cost before its request reaches the application."""

import resource
import threading
import time
from contextlib import suppress

import pytest
from structlog.testing import capture_logs

from tests.integration.api_http.conftest import (
    GET_LIVE,
    GET_LIVE_AGAIN,
    LARGE,
    PATIENCE_S,
    Server,
    a_post,
    serving,
)

SHORT_S = 0.2


@pytest.mark.parametrize(
    "request_start",
    [
        pytest.param(b"GET /health/live HTTP/1.1\r\nX: ", id="value"),
        pytest.param(b"GET /health/live HTTP/1.1\r\n", id="name"),
        pytest.param(b"GET /", id="target"),
    ],
)
def test_headers_beyond_the_limit_are_a_431_before_they_end(
    server: Server, request_start: bytes
) -> None:
    response = server.send(request_start + b"x" * (96 << 10)).response()
    assert (response.status, response.error["code"]) == (431, "headers_too_large")
    assert "65536 bytes" in response.error["message"]
    assert response.headers["connection"] == "close"


def test_many_headers_within_the_count_are_a_431_by_their_bytes(server: Server) -> None:
    lines = b"".join(b"X-%d: %s\r\n" % (n, b"v" * 1000) for n in range(90))
    response = server.send(b"GET /health/live HTTP/1.1\r\n" + lines).response()
    assert (response.status, response.error["code"]) == (431, "headers_too_large")


def test_headers_just_within_the_limits_are_read(server: Server) -> None:
    lines = b"".join(b"X-%d: %s\r\n" % (n, b"v" * 640) for n in range(98))
    data = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + lines + b"\r\n"
    assert server.send(data).response().status == 200


def test_more_headers_than_the_limit_are_a_431(server: Server) -> None:
    lines = b"".join(b"X-%d: 1\r\n" % n for n in range(101))
    response = server.send(b"GET /health/live HTTP/1.1\r\n" + lines + b"\r\n").response()
    assert (response.status, response.error["code"]) == (431, "headers_too_large")
    assert "100 headers" in response.error["message"]


def test_trailers_of_a_chunked_body_count_as_headers(server: Server) -> None:
    start = b"POST /size HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    many = b"".join(b"T-%d: 1\r\n" % n for n in range(101))
    assert server.send(start + many).response().status == 431
    assert server.send(start + b"T: " + b"x" * (96 << 10)).response().status == 431


def test_line_ends_before_a_request_are_bounded(server: Server) -> None:
    assert server.send(b"\r\n" * (48 << 10)).response().status == 431


def test_huge_header_costs_neither_memory_nor_the_others_time(server: Server) -> None:
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    client = server.send(b"GET / HTTP/1.1\r\nX: ")
    piece = b"x" * (1 << 20)

    def flood() -> None:
        for _ in range(40):
            client.send(piece)

    flooding = threading.Thread(target=flood)
    flooding.start()
    assert server.is_live()
    flooding.join()
    assert client.response().status == 431
    assert time.process_time() - started < 3  # 6 s and more where all of it was parsed
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 20_000


def test_slow_headers_are_a_408_while_others_are_served() -> None:
    with serving(header_timeout_s=SHORT_S) as server:
        slow = [server.send(b"GET / HTTP/1.1\r\nX: ") for _ in range(20)]
        assert server.is_live()
        for client in slow:
            response = client.response()
            assert (response.status, response.error["code"]) == (408, "request_timeout")
            assert "headers" in response.error["message"]


def test_drip_of_headers_does_not_extend_the_time() -> None:
    with serving(header_timeout_s=SHORT_S) as server:
        client = server.send(b"GET / HTTP/1.1\r\n")
        stopped = threading.Event()

        def drip() -> None:
            while not stopped.wait(0.02):
                client.send(b"X: 1\r\n")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert client.socket.recv(1 << 16).startswith(b"HTTP/1.1 408 ")
        finally:
            stopped.set()
            dripping.join()


@pytest.mark.parametrize("data", [b"", b"\r\n"], ids=["silence", "line end"])
def test_connection_without_a_request_is_closed(data: bytes) -> None:
    with serving(header_timeout_s=SHORT_S) as server:
        received = server.send(data).read_until_closed()
        assert received == b"" if not data else received.startswith(b"HTTP/1.1 408 ")


def test_kept_connection_may_be_idle_for_longer_than_headers_may_take() -> None:
    with serving(header_timeout_s=SHORT_S) as server:
        client = server.send(GET_LIVE_AGAIN)
        assert client.next_response().status == 200
        time.sleep(3 * SHORT_S)
        assert client.send(GET_LIVE).response().status == 200


def test_second_request_of_a_connection_is_timed_too() -> None:
    with serving(header_timeout_s=SHORT_S) as server:
        client = server.send(GET_LIVE_AGAIN)
        assert client.next_response().status == 200
        assert client.send(b"GET / HT").response().status == 408


def test_slow_body_is_a_408_while_others_are_served() -> None:
    with serving(body_timeout_s=SHORT_S) as server:
        client = server.send(a_post("/size", b"x" * 100)[:-1])
        assert server.is_live()
        response = client.response()
        assert (response.status, response.error["code"]) == (408, "request_timeout")
        assert "body" in response.error["message"]


def test_upload_of_a_file_has_a_time_limit_of_its_own() -> None:
    with serving(body_timeout_s=SHORT_S, upload_timeout_s=60) as server:
        client = server.send(a_post("/v1/files", b"x" * 9, Content_Length="10", Connection="close"))
        time.sleep(3 * SHORT_S)
        assert client.send(b"x").response().body == b'{"bytes":10}'
    with serving(body_timeout_s=60, upload_timeout_s=SHORT_S) as server:
        response = server.send(a_post("/v1/files", b"x" * 9, Content_Length="10")).response()
        assert (response.status, response.error["code"]) == (408, "request_timeout")


@pytest.mark.parametrize(
    ("path", "size"), [(b"/v1/files/x/content", 4096 << 16), (b"/large", LARGE)]
)
@pytest.mark.parametrize("end", [b"", b"Connection: close\r\n"])
def test_client_that_stops_reading_its_answer_is_disconnected(
    path: bytes, size: int, end: bytes
) -> None:
    with serving(body_timeout_s=SHORT_S) as server:
        client = server.send(b"GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n" % (path, end))
        deadline = time.monotonic() + PATIENCE_S
        reason = {"reason": "download_timeout"}
        while server.count("lmaas_refused_connections_total", **reason) < 1 or server.count(
            "lmaas_open_connections"
        ):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with suppress(ConnectionResetError):
            assert len(client.read_until_closed()) < size


def test_idle_connection_with_an_unread_answer_makes_room_at_once() -> None:
    with serving(connections=1) as server:
        unread = server.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        deadline = time.monotonic() + PATIENCE_S
        while not server.count("lmaas_refused_connections_total", reason="evicted"):
            assert time.monotonic() < deadline
            client = server.send(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            client.socket.close()
        while server.count("lmaas_open_connections") > 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with suppress(ConnectionResetError):
            assert len(unread.read_until_closed()) < LARGE, "its connection is gone, not uncounted"


def test_client_that_reads_a_file_slowly_gets_the_whole() -> None:
    with serving(body_timeout_s=20) as server:
        head = b"GET /v1/files/x/content HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        client = server.send(head)
        time.sleep(2 * SHORT_S)
        assert len(client.response().body) == 4096 << 16


def test_file_that_is_lost_while_it_is_read_ends_the_connection_before_its_length() -> None:
    with serving() as server:
        client = server.send(b"GET /v1/files/lost/content HTTP/1.1\r\nHost: x\r\n\r\n")
        assert len(client.response().body) == 1 << 16
        assert server.is_live()


def test_body_that_arrives_just_in_time_is_read() -> None:
    with serving(header_timeout_s=SHORT_S, body_timeout_s=20) as server:
        client = server.send(a_post("/size", b"", Content_Length="10", Connection="close"))
        for _ in range(10):
            time.sleep(SHORT_S / 4)
            client.send(b"x")
        assert client.response().body == b'{"bytes":10}'


def test_body_asked_for_by_100_continue_is_read(server: Server) -> None:
    head = a_post("/size", b"", Content_Length="3", Expect="100-continue", Connection="close")
    client = server.send(head)
    assert client.socket.recv(1 << 10) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert client.send(b"abc").response().body == b'{"bytes":3}'


def test_connection_ends_where_the_answer_came_instead_of_100_continue(server: Server) -> None:
    head = a_post("/early", b"", Content_Length="3", Expect="100-continue")
    assert server.send(head).response().status == 200


def test_body_behind_its_answer_is_discarded_and_the_connection_kept(server: Server) -> None:
    client = server.send(a_post("/early", b"x" * 1000)[:-1000])
    assert client.next_response().status == 200
    assert client.send(b"x" * 1000 + GET_LIVE).response().status == 200


def test_body_that_never_comes_behind_its_answer_ends_the_connection(server: Server) -> None:
    client = server.send(a_post("/early", b"x" * 1000)[:-1])
    assert client.next_response().status == 200
    assert client.read_until_closed() == b""


def test_large_body_refused_by_its_length_is_answered_though_it_keeps_coming(
    server: Server,
) -> None:
    client = server.send(a_post("/size", b"", Content_Length=str(8 << 20)) + b"x" * (8 << 20))
    response = client.next_response()
    assert (response.status, response.error["code"]) == (413, "request_too_large")


def test_connection_over_the_limit_is_a_503_health_excepted() -> None:
    with serving(connections=2, header_timeout_s=20) as server:
        held = [server.send(b"GET / HT") for _ in range(2)]
        response = server.send(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n").response()
        assert (response.status, response.error["code"]) == (503, "too_many_connections")
        assert int(response.headers["retry-after"]) > 0
        assert server.is_live()
        held[0].socket.close()
        statuses = (server.send(GET_LIVE.replace(b"/live", b"/x")).response() for _ in range(100))
        assert any(response.status == 404 for response in statuses)


def test_idle_connection_makes_room_for_a_new_one() -> None:
    with serving(connections=1) as server:
        idle = server.send(GET_LIVE_AGAIN)
        assert idle.next_response().status == 200
        assert server.send(GET_LIVE.replace(b"/live", b"/x")).response().status == 404
        assert idle.read_until_closed() == b""


def test_connections_over_the_limit_are_bounded_too() -> None:
    with serving(connections=1, header_timeout_s=20) as server:
        held = [server.send(b"GET / HT") for _ in range(2)]
        assert server.connect().read_until_closed() == b""  # without the wait for its request
        assert len(held) == 2


def test_what_is_no_http_is_a_400_logged_with_the_peers_address(server: Server) -> None:
    with capture_logs() as logs:
        client = server.send(b"EHLO mail\r\n\r\n")
        peer = "{}:{}".format(*client.socket.getsockname())
        response = client.response()
    assert (response.status, response.error["code"]) == (400, "malformed_request")
    (event,) = [entry for entry in logs if entry["event"] == "request_refused"]
    assert (event["peer"], event["code"]) == (peer, "malformed_request")
    assert event["request_id"] == response.headers["x-request-id"]


def test_flood_of_refusals_is_one_log_event_a_second_with_their_number() -> None:
    with serving() as server, capture_logs() as logs:
        for _ in range(20):
            server.send(b"EHLO mail\r\n\r\n").response()
        time.sleep(1.1)
        server.send(b"EHLO mail\r\n\r\n").response()
    events = [entry for entry in logs if entry["event"] == "request_refused"]
    assert sum(1 + event["omitted"] for event in events) == 21
    assert len(events) < 21
