"""Reading folders of lines, and errors in them."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import InvalidRequest, NotFound
from gateway.evaluation.corpus import read_corpus, read_lines

Write = Callable[..., Path]


def a_line(**changes: Any) -> dict[str, Any]:
    return {"app": "echo", "instruction": "", "input": "a b", "output": "a b"} | changes


def test_one_folder_is_divided_by_split(write: Write) -> None:
    data = write(a_line(split="train", input="x"), a_line(split="valid", input="y"))
    corpus = read_corpus(data, data)
    assert [line.input for line in corpus.train] == ["x"]
    assert [line.input for line in corpus.test] == ["y"]


def test_lines_of_two_folders_without_split_count_all(write: Write) -> None:
    train = write(a_line(), a_line(), folder="train")
    corpus = read_corpus(train, write(a_line(), folder="test"))
    assert (len(corpus.train), len(corpus.test)) == (2, 1)


def test_packed_and_plain_files_are_read_in_the_order_of_their_names(write: Write) -> None:
    data = write(a_line(input="second"), "", file="b.jsonl")
    (data / "a.jsonl.gz").write_bytes(gzip.compress((data / "b.jsonl").read_bytes()))
    (data / "notes.txt").write_text("no line")
    assert [line.input for line in read_lines(data)] == ["second", "second"]


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no folder"):
        read_corpus(tmp_path / "nowhere", tmp_path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "truncated"),
        ("[1]", "Expected `object`"),
        ('{"app": "a", "instruction": "", "input": "x"}', "missing required field `output`"),
        (a_line(output=""), r"length >= 1 - at `\$.output`"),
        (a_line(input=7), r"Expected `str`, got `int` - at `\$.input`"),
        (a_line(split="test"), "Invalid enum value 'test'"),
    ],
)
def test_damaged_line_is_named_with_its_file_and_number(
    write: Write, line: object, reason: str
) -> None:
    data = write(a_line(), "", line)
    with pytest.raises(InvalidRequest, match=rf"some\.jsonl, line 3: .*{reason}"):
        list(read_lines(data))


def test_bytes_that_are_no_text_are_named(write: Write) -> None:
    data = write(a_line())
    with (data / "some.jsonl").open("ab") as file:
        file.write(b'{"app": "\xff"}\n')
    with pytest.raises(InvalidRequest, match="line 2: "):
        list(read_lines(data))


@pytest.mark.parametrize(
    "content", [b"plain", gzip.compress(b"{}\n" * 9_000)[:40]], ids=["no gzip", "broken off"]
)
def test_packed_file_that_is_none_or_broken_off_is_named(write: Write, content: bytes) -> None:
    data = write()
    (data / "some.jsonl.gz").write_bytes(content)
    with pytest.raises(InvalidRequest, match=r"some\.jsonl\.gz, (after )?line \d+: "):
        list(read_lines(data))


def test_folder_without_lines_is_refused(write: Write) -> None:
    with pytest.raises(InvalidRequest, match="has no lines in files named"):
        list(read_lines(write()))


def test_missing_training_lines_are_reported(write: Write) -> None:
    data = write(a_line(split="valid"))
    with pytest.raises(InvalidRequest, match="nothing to train on"):
        read_corpus(data, data)


def test_missing_test_lines_are_reported(write: Write) -> None:
    data = write(a_line(split="train"))
    with pytest.raises(InvalidRequest, match="nothing to report on"):
        read_corpus(data, data)


def test_one_folder_without_split_is_refused(write: Write) -> None:
    data = write(a_line(split="train"), a_line())
    with pytest.raises(InvalidRequest, match="without `split`"):
        read_corpus(data, data)


def test_only_some_apps_are_kept_and_an_unknown_one_is_named(write: Write) -> None:
    lines = [a_line(app=app, split=split) for app in "ab" for split in ("train", "valid")]
    data = write(*lines)
    corpus = read_corpus(data, data)
    assert {line.app for line in corpus.only(["a"]).train} == {"a"}
    with pytest.raises(InvalidRequest, match="no app c; known are a, b"):
        corpus.only(["a", "c"])
