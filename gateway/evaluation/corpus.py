"""Reads folders of requests with answers in JSON Lines (`*.jsonl`, `*.jsonl.gz`).

The format is documented in docs/prediction.md; unknown columns are ignored.
"""

import gzip
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from gateway.errors import InvalidRequest, NotFound
from gateway.prediction.messages import FREE, Form

FILE_SUFFIXES: Final = (".jsonl", ".jsonl.gz")

Text = Annotated[str, Meta(min_length=1)]
Split = Literal["train", "valid"]


class MeasuredLength(Struct, frozen=True, kw_only=True):
    """Tokens of a served model's own answer, and of its input and whole prompt.

    An answer of `max_tokens` was cut off.
    """

    input_tokens: int
    prompt_tokens: int
    answer_tokens: Annotated[int, Meta(ge=1)]
    max_tokens: int


class CorpusLine(Struct, frozen=True, kw_only=True):
    """A request and its answer, of a form. `user` is the app's end user, if known.

    `measured`: of another answer, of which only the length is known.
    """

    app: Text
    instruction: str
    input: str
    output: Text
    source: str | None = None
    user: str | None = None
    split: Split | None = None
    form: Form = FREE
    measured: MeasuredLength | None = None


class Corpus(Struct, frozen=True):
    """Training and test lines, in the order of the files."""

    train: list[CorpusLine]
    test: list[CorpusLine]

    def only(self, apps: Collection[str]) -> "Corpus":
        """The lines of these apps. InvalidRequest for an app without test lines."""
        known = {line.app for line in self.test}
        for app in apps:
            if app not in known:
                raise InvalidRequest(f"there is no app {app}; known are {', '.join(sorted(known))}")
        return Corpus(
            [line for line in self.train if line.app in apps],
            [line for line in self.test if line.app in apps],
        )


_decoder = msgspec.json.Decoder(CorpusLine)


def read_corpus(train: Path, test: Path) -> Corpus:
    """The `train` lines of one folder and the `valid` lines of another, possibly the same.

    A line without `split` is used for its folder's purpose. NotFound for a missing folder;
    InvalidRequest for an invalid line, or without training or test lines.
    """
    lines = list(read_lines(train))
    test_folder_lines = lines if train.resolve() == test.resolve() else list(read_lines(test))
    if test_folder_lines is lines and any(line.split is None for line in lines):
        raise InvalidRequest(
            f"{train} is used for training and testing, but has lines without `split`: "
            "give each line a split, or use two folders"
        )
    train_lines = [line for line in lines if line.split != "valid"]
    test_lines = [line for line in test_folder_lines if line.split != "train"]
    if not train_lines:
        raise InvalidRequest(f"{train} has nothing to train on: all its lines are `valid`")
    if not test_lines:
        raise InvalidRequest(f"{test} has nothing to report on: all its lines are `train`")
    return Corpus(train_lines, test_lines)


def read_lines(folder: Path) -> Iterator[CorpusLine]:
    """All lines of a folder, its files ordered by name; blank lines are skipped."""
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}")
    files = sorted(path for path in folder.iterdir() if path.name.endswith(FILE_SUFFIXES))
    found = 0
    for path in files:
        for line in _read_file(path):
            found += 1
            yield line
    if not found:
        raise InvalidRequest(f"{folder} has no lines in files named *{' or *'.join(FILE_SUFFIXES)}")


def _read_file(path: Path) -> Iterator[CorpusLine]:
    for number, raw in enumerate(_raw_lines(path), 1):
        if not raw.strip():
            continue
        try:
            yield _decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"{path}, line {number}: {error}") from error


def _raw_lines(path: Path) -> Iterator[bytes]:
    """A file's lines, decompressed. InvalidRequest if it cannot be read to its end."""
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):  # noqa: B007 - used in the error
                yield line
    except (OSError, EOFError) as error:
        raise InvalidRequest(f"{path}, after line {number}: {error}") from error
