"""Bodies are bounded in bytes and in JSON values before anything is decoded."""

import gzip
import json
import time

import pytest
from structlog.testing import capture_logs

from gateway.api.body import BodyLimits
from tests.integration.api_http.conftest import MAX_BODY, MAX_VALUES, Server, a_post, serving

MESSAGE = {"role": "user", "content": ""}


def test_body_over_the_limit_is_a_413_that_names_it(server: Server) -> None:
    response = server.post("/size", b"x" * (MAX_BODY + 1))
    assert (response.status, response.error["code"]) == (413, "request_too_large")
    assert str(MAX_BODY) in response.error["message"]


def test_chunked_body_over_the_limit_is_a_413(server: Server) -> None:
    head = b"POST /size HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%s\r\n" % (MAX_BODY + 1, b"x" * (MAX_BODY + 1))
    assert server.send(head + chunk).next_response().status == 413


def test_limits_follow_the_context_of_the_engine_that_runs() -> None:
    limits = [BodyLimits.of(context_tokens=1000, max_values=10)]
    size, values = 1 << 20, 1000
    with serving(lambda: limits[-1]) as server:
        for context_tokens in (100_000, 1000):
            assert server.post("/size", b"x" * size).status == 200
            assert server.post("/size", b"x" * (size + 1)).status == 413
            assert server.post("/decode", json.dumps([""] * (values - 1)).encode()).status == 200
            assert server.post("/decode", json.dumps([""] * values).encode()).status == 413
            limits.append(BodyLimits.of(context_tokens=context_tokens, max_values=10))
            size, values = 32 * context_tokens, context_tokens


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(json.dumps({"messages": [MESSAGE] * 20_000}).encode(), id="messages"),
        pytest.param(b'{"tools": [' + b"[]," * 300_000 + b"[]]}", id="tools"),
        pytest.param(b'{"stop": [' + b'"",' * 300_000 + b'""]}', id="texts"),
    ],
)
def test_body_of_too_many_values_is_a_413_that_names_both_numbers(
    server: Server, body: bytes
) -> None:
    response = server.post("/decode", body)
    assert (response.status, response.error["code"]) == (413, "request_too_large")
    assert f"at most {MAX_VALUES} are accepted" in response.error["message"]


@pytest.mark.parametrize("items", [0, 1, 500, MAX_VALUES - 1])
def test_body_within_the_limit_is_decoded(server: Server, items: int) -> None:
    response = server.post("/decode", json.dumps([""] * items).encode())
    assert json.loads(response.body) == {"items": items}


def test_text_full_of_punctuation_is_no_values(server: Server) -> None:
    text = 'a, "b": [c], {d}\\' * 10_000
    assert server.post("/decode", json.dumps([text]).encode()).status == 200


def test_gzip_body_is_understood(server: Server) -> None:
    body = gzip.compress(json.dumps(["a"] * 50).encode())
    response = server.post("/decode", body, Content_Encoding="gzip")
    assert json.loads(response.body) == {"items": 50}


def test_gzip_body_is_bounded_by_its_decompressed_size(server: Server) -> None:
    bomb = gzip.compress(b" " * (200 << 20), compresslevel=9)
    assert len(bomb) < MAX_BODY
    started = time.process_time()
    response = server.post("/size", bomb, Content_Encoding="gzip")
    refused = time.process_time()
    assert (response.status, response.error["code"]) == (413, "request_too_large")
    gzip.decompress(bomb)
    assert refused - started < (time.process_time() - refused) / 3  # a 200th of the output


def test_gzip_body_just_within_the_limit_is_read(server: Server) -> None:
    body = gzip.compress(b"x" * MAX_BODY)
    response = server.post("/size", body, Content_Encoding="gzip")
    assert json.loads(response.body) == {"bytes": MAX_BODY}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (gzip.compress(b"[1, 2, 3]")[:-4], "cut off"),
        (b"[1, 2, 3]", "not gzip"),
        (gzip.compress(b"[1]") + gzip.compress(b"[2]"), "one member"),
    ],
    ids=["cut off", "not gzip", "two members"],
)
def test_broken_gzip_body_is_a_400_that_says_so(server: Server, body: bytes, said: str) -> None:
    response = server.post("/decode", body, Content_Encoding="gzip")
    assert response.status == 400
    assert said in response.error["message"]


def test_other_compression_is_a_415_that_lists_what_is_accepted(server: Server) -> None:
    response = server.post("/decode", b"[]", Content_Encoding="br")
    assert (response.status, response.error["code"]) == (415, "unsupported_media_type")
    assert "gzip" in response.error["message"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"\xef\xbb\xbf[1]", "byte order mark"),
        ("[1]".encode("utf-16"), "is UTF-16"),
        ("[1]".encode("utf-16-be"), "is UTF-16"),
        ("[1]".encode("utf-32"), "is UTF-32"),
        ("[1]".encode("utf-32-le"), "is UTF-32"),
        (rb'["\ud83d"]', r"half of a surrogate pair, \ud83d at byte 2"),
        (rb'["\\\udc00 "]', r"half of a surrogate pair, \udc00 at byte 4"),
        (rb'["\ud83d\ude00", "\ud83d x"]', r"half of a surrogate pair, \ud83d at byte 18"),
        (
            b'["' + rb"\\" * 40 + rb'\ud83d and more"]',
            r"half of a surrogate pair, \ud83d at byte 82",
        ),
        (b'["\xed\xa0\x80"]', "a surrogate is encoded at byte 2"),
        (b'["\xff"]', "not UTF-8: invalid start byte at byte 2"),
        (gzip.compress(b"[1]"), "Content-Encoding: gzip"),
        (b"[" * 2500, "nested too deeply"),
        (b"[1,]", "not JSON: "),
        (rb'["\\ud83d",]', "not JSON: "),
        (b"{", "not JSON: "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unreadable_body_is_a_400_with_the_true_reason(
    server: Server, body: bytes, said: str
) -> None:
    response = server.post("/decode", body)
    assert (response.status, response.error["code"]) == (400, "invalid_value")
    assert said in response.error["message"]


def test_upload_broken_off_is_no_defect(server: Server) -> None:
    with capture_logs() as logs:
        server.send(a_post("/decode", b"[1, 2]")[:-2]).socket.close()
        assert server.is_live()
        time.sleep(0.2)
    assert [entry for entry in logs if entry["log_level"] == "error"] == []
