import json

import pytest

from gateway.errors import InvalidRequest
from gateway.prediction.lifecycle.log_format import (
    MAX_LINES,
    MAX_REPORTED,
    BadLine,
    bad_lines_error,
    read_lines,
)


def a_line(**fields: object) -> bytes:
    return json.dumps({"app": "mail", "input": "Hello", "tokens": 3, **fields}).encode()


def test_lines_are_numbered_as_in_the_file_and_blank_ones_skipped() -> None:
    good, bad = read_lines(b"\n" + a_line() + b"\r\n\n" + a_line(tokens=None, output="Hi") + b"\n")
    assert {number: line.tokens for number, line in good.items()} == {2: 3, 4: None}
    assert bad == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{broken", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b"[1]", "Expected `object`"),
        (a_line(tokens=0), "`int` >= 1"),
        (a_line(tokens=None), "either `output` or `tokens` is needed"),
        (a_line(output="x"), "and not both"),
        (a_line(tokens=None, output=""), "`output` is empty"),
        (a_line(input="a\0b"), "NUL"),
        (a_line(lenght=3), "unknown field `lenght`"),
    ],
)
def test_bad_line_is_reported_with_number_and_reason(line: bytes, reason: str) -> None:
    good, (bad,) = read_lines(a_line() + b"\n" + line)
    assert list(good) == [1]
    assert bad.number == 2
    assert reason in bad.reason


@pytest.mark.parametrize("body", [b"", b"\n \n", b"{}\n" * (MAX_LINES + 1)])
def test_no_line_and_too_many_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match=f"accepted are 1 to {MAX_LINES}"):
        read_lines(body)


def test_error_names_the_first_bad_lines_in_order() -> None:
    bad = [BadLine(number, "wrong") for number in range(MAX_REPORTED + 7, 0, -1)]
    lines = bad_lines_error(bad).message.splitlines()
    assert lines[:2] == ["nothing was imported", "line 1: wrong"]
    assert lines[-1] == "and 7 more"


def test_reason_repeats_little_of_the_line() -> None:
    _, bad = read_lines(b"\n".join(a_line(**{name * 50_000: 1}) for name in "xyz"))
    assert len(str(bad_lines_error(bad))) < 1_000
