"""The file of own lengths, and a run that goes on after a stop."""

from pathlib import Path

import msgspec
import pytest

from benchmarks.own_lengths.lengths_file import (
    OwnLength,
    as_row,
    line_id,
    read_lengths,
    write_lengths,
)
from benchmarks.own_lengths.partial import PartialRun
from gateway.evaluation.corpus import CorpusLine


def a_length(**changes: object) -> OwnLength:
    own = OwnLength(
        line="0123456789abcdef0123",
        app="detox",
        split="valid",
        kind="sampled",
        input_tokens=12,
        prompt_tokens=40,
        answer_tokens=25,
        finish="stop",
        repeats=False,
    )
    return msgspec.structs.replace(own, **changes)


def test_written_lengths_are_read_in_order_of_app_line_and_kind(tmp_path: Path) -> None:
    file = tmp_path / "own.csv.gz"
    lengths = [
        a_length(kind="sampled", repeats=True),
        a_length(kind="greedy", finish="length", repeats=None),
        a_length(app="assistant"),
    ]
    write_lengths(lengths, file)
    assert read_lengths(file) == lengths[::-1]


def test_same_answers_give_the_same_bytes(tmp_path: Path) -> None:
    lengths = [a_length(), a_length(kind="again")]
    write_lengths(lengths, tmp_path / "one.csv.gz")
    write_lengths(lengths[::-1], tmp_path / "other.csv.gz")
    assert (tmp_path / "one.csv.gz").read_bytes() == (tmp_path / "other.csv.gz").read_bytes()


def test_committed_file_has_a_hundred_lines_of_each_app_each_once() -> None:
    found = [each for each in read_lengths() if each.kind == "sampled"]
    by_app = {app: [each for each in found if each.app == app] for app in {o.app for o in found}}
    assert len(by_app) == 14
    assert min(map(len, by_app.values())) >= 100
    assert len({each.key for each in found}) == len(found)
    assert all(each.answer_tokens == 400 for each in found if each.cut_off)


def test_line_is_identified_by_what_was_asked_and_not_by_its_answer() -> None:
    line = CorpusLine(app="a", instruction="b", input="c", output="d")
    assert line_id(line) == line_id(msgspec.structs.replace(line, output="e"))
    assert line_id(line) == "8badde10c760e9b702de"  # what others compute for the same line
    assert line_id(line) != line_id(msgspec.structs.replace(line, instruction="B"))


def test_row_with_an_unknown_finish_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text(as_row(a_length()).replace("stop", "because"))
    with pytest.raises(msgspec.ValidationError, match="because"):
        PartialRun(file)


def test_stopped_run_goes_on_after_its_last_whole_row(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    first = PartialRun(file)
    first.add(a_length())
    first.add(a_length(kind="again"))
    file.write_bytes(file.read_bytes()[:-5])
    second = PartialRun(file)
    assert second.known == [a_length()]
    second.add(a_length(kind="greedy"))
    assert [each.kind for each in PartialRun(file).known] == ["sampled", "greedy"]
