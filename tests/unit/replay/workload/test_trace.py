"""Trace files, valid and invalid."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from gateway.errors import InvalidRequest, NotFound
from gateway.replay.workload.trace import QUANTILE_COLUMNS, read_trace

HEADER = "arrival_s,prompt_tokens,generation_tokens"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trace.csv"


def test_trace_is_read_in_order_of_arrival_from_zero(file: Path) -> None:
    file.write_text(f"{HEADER}\n4.5,10,7\n\n3.5,20,9\n")
    found = read_trace(file)
    found.check()
    assert found.arrived_s.tolist() == [0, 1]
    assert found.prompt_tokens.tolist() == [20, 10]
    assert found.generation_tokens.tolist() == [9, 7]
    assert found.max_tokens.tolist() == [9, 9]
    assert not found.has_predictions


def test_gzipped_trace_is_read(file: Path) -> None:
    file.write_text(f"{HEADER}\n0,10,7\n")
    packed = file.with_suffix(".csv.gz")
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert read_trace(packed).prompt_tokens.tolist() == [10]


def test_optional_columns_in_any_order(file: Path) -> None:
    file.write_text(
        f"app,{','.join(QUANTILE_COLUMNS)},max_tokens,{HEADER},deadline_s,tenant,note\n"
        "chat,1,2,3,4.5,5,6,50,0.5,10,7,,acme,x\n"
        "code,1,2,3,4.5,5,6,60,1.5,10,7,12.5,zeta,y\n"
    )
    found = read_trace(file)
    found.check()
    assert found.has_predictions
    assert found.quantiles.tolist() == [[1, 2, 3, 4.5, 5, 6]] * 2
    assert found.max_tokens.tolist() == [50, 60]
    assert [found.tenants[each] for each in found.tenant] == ["acme", "zeta"]
    assert [found.apps[each] for each in found.app] == ["chat", "code"]
    assert [found.request(index).deadline_s for index in (0, 1)] == [None, 13.5]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("x,10,7", r"arrival_s: 'x' is not a number of seconds"),
        ("inf,10,7", r"arrival_s: 'inf' is not a number"),
        ("1,0,7", r"prompt_tokens: '0' is not a whole number from 1"),
        ("1,10,7.5", r"generation_tokens: '7.5' is not a whole number"),
        ("1,10,", r"generation_tokens: '' is not a whole number"),
        ("1,10", r"2 cells where the header has 3"),
    ],
)
def test_damaged_row_is_named_with_file_and_line(file: Path, row: str, reason: str) -> None:
    file.write_text(f"{HEADER}\n0,1,1\n\n{row}\n")
    with pytest.raises(InvalidRequest, match=rf"trace\.csv:4: {reason}"):
        read_trace(file)


def test_line_is_named_in_a_later_chunk_too(file: Path) -> None:
    file.write_text(f"{HEADER}\n" + "0,1,1\n" * 60_000 + "0,1,-1\n" + "0,1,1\n" * 10)
    with pytest.raises(InvalidRequest, match=r":60002: generation_tokens: '-1'"):
        read_trace(file)


@pytest.mark.parametrize(
    ("column", "cell", "reason"),
    [
        ("max_tokens", "6", "generation_tokens is above max_tokens"),
        ("deadline_s", "0", "deadline_s: '0' is not a number of seconds above 0"),
        ("deadline_s", "nan", "deadline_s: 'nan' is not"),
        (",".join(QUANTILE_COLUMNS), "1,2,3,2,5,6", "q50 is above q75"),
        (",".join(QUANTILE_COLUMNS), "1,2,,4,5,6", "q50: '' is not a number of tokens"),
    ],
)
def test_damaged_optional_cell_is_named(file: Path, column: str, cell: str, reason: str) -> None:
    file.write_text(f"{HEADER},{column}\n0,10,7,{cell}\n")
    with pytest.raises(InvalidRequest, match=f":2: {reason}"):
        read_trace(file)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no column arrival_s, prompt_tokens, generation_tokens"),
        ("arrival_s,prompt_tokens\n", "no column generation_tokens"),
        (f"{HEADER},q50\n", "no column q10, q25, q75, q90, q95"),
        (f"{HEADER},tenant,tenant\n", "column tenant comes twice"),
        (f"{HEADER}\n", "has no requests"),
        (f'{HEADER}\n0,"1,1\n', "unexpected end of data"),
    ],
)
def test_file_with_an_invalid_header_is_refused(file: Path, text: str, reason: str) -> None:
    file.write_text(text)
    with pytest.raises(InvalidRequest, match=reason):
        read_trace(file)


def test_bytes_that_are_not_utf_8_are_refused(file: Path) -> None:
    file.write_bytes(f"{HEADER}\n".encode() + b"\xff,1,1\n")
    with pytest.raises(InvalidRequest, match=r"trace\.csv cannot be read"):
        read_trace(file)


@pytest.mark.parametrize(
    "content",
    [b"plain", gzip.compress(f"{HEADER}\n".encode() + b"0,1,1\n" * 90_000)[:100]],
    ids=["no gzip", "broken off"],
)
def test_invalid_or_truncated_gzip_is_refused(tmp_path: Path, content: bytes) -> None:
    packed = tmp_path / "trace.csv.gz"
    packed.write_bytes(content)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_trace(packed)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no file"):
        read_trace(tmp_path / "nowhere.csv")


def test_trace_of_several_chunks_is_read_whole(file: Path) -> None:
    arrivals = np.random.default_rng(1).exponential(size=120_000).cumsum().round(4)
    file.write_text(f"{HEADER}\n" + "".join(f"{each:.4f},100,20\n" for each in arrivals))
    assert read_trace(file).arrived_s == pytest.approx(arrivals - arrivals[0], abs=1e-9)
