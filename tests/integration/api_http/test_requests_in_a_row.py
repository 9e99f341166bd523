"""Requests that share a connection, and clients of HTTP/1.0."""

from tests.integration.api_http.conftest import GET_LIVE, GET_LIVE_AGAIN, Server, a_post

OLD = b"GET /stream HTTP/1.0\r\nHost: x\r\n\r\n"


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    data = b"".join(a_post("/size", b"x" * n) for n in range(1, 6)) + GET_LIVE
    received = server.send(data).read_until_closed()
    sizes = [int(part.split(b"}")[0]) for part in received.split(b'{"bytes":')[1:]]
    assert sizes == [1, 2, 3, 4, 5]
    assert received.endswith(b'{"status":"ok"}')


def test_request_behind_others_is_refused_after_their_answers(server: Server) -> None:
    received = server.send(GET_LIVE_AGAIN * 3 + b"EHLO mail\r\n\r\n").read_until_closed()
    assert received.count(b"HTTP/1.1 200 OK") == 3
    assert received.endswith(b'{"status":"ok"}')


def test_requests_that_wait_on_a_connection_are_bounded(server: Server) -> None:
    received = server.send(GET_LIVE_AGAIN * 500).read_until_closed()
    assert 1 <= received.count(b"HTTP/1.1 200 OK") < 500
    assert received.endswith(b'{"status":"ok"}')


def test_http_1_0_stream_has_no_chunks_and_ends_with_the_connection(server: Server) -> None:
    response = server.send(OLD).response()
    assert response.body == b"one two three"
    assert "transfer-encoding" not in response.headers


def test_http_1_1_stream_has_chunks(server: Server) -> None:
    response = server.send(OLD.replace(b"1.0\r\n", b"1.1\r\nConnection: close\r\n")).response()
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.body.endswith(b"0\r\n\r\n")


def test_http_1_0_answer_of_known_length_keeps_it(server: Server) -> None:
    response = server.send(GET_LIVE.replace(b"1.1", b"1.0")).response()
    assert response.headers["content-length"] == str(len(response.body))


def test_upgrade_is_answered_in_http_1_1_and_ends_the_connection(server: Server) -> None:
    data = GET_LIVE_AGAIN.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n")
    response = server.send(data).response()
    assert (response.status, response.headers["connection"]) == (200, "close")
