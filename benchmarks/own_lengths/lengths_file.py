"""The committed lengths of a model's own answers: a gzipped CSV file without any text."""

import csv
import gzip
import io
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import Struct

from gateway.evaluation.corpus import CorpusLine, Split

FILE: Final = Path(__file__).with_name("smollm2.csv.gz")
MAX_TOKENS: Final = 400  # of every answer
ID_DIGITS: Final = 20
END_OF_ROW: Final = "\n"

Kind = Literal["sampled", "again", "greedy", "json", "tool", "offered"]


class OwnLength(Struct, frozen=True, kw_only=True):
    """The length of one answer. `line` is the `line_id` of what was asked.

    `kind`: sampled, sampled again with another seed, or greedy; or sampled in another form: JSON of
    a schema, a required call of a tool, or with a tool offered (`forms`). `finish` is the reason in
    the API: `length` means cut off at MAX_TOKENS. `repeats`: whether the answer ends in what it
    said before; None if that was not noted. Tokens are those of the model; `input_tokens` of the
    input alone.
    """

    line: str
    app: str
    split: Split
    kind: Kind
    input_tokens: int
    prompt_tokens: int
    answer_tokens: int
    finish: Literal["stop", "length", "tool_calls"]
    repeats: bool | None = None

    @property
    def key(self) -> tuple[str, Kind]:
        """What identifies it."""
        return self.line, self.kind

    @property
    def cut_off(self) -> bool:
        """Whether the natural length is longer."""
        return self.finish == "length"


def line_id(line: CorpusLine) -> str:
    """20 hex digits of the SHA-256 of app, instruction and input, with NUL between them."""
    asked = f"{line.app}\0{line.instruction}\0{line.input}"
    return sha256(asked.encode()).hexdigest()[:ID_DIGITS]


def read_lengths(file: Path = FILE) -> list[OwnLength]:
    """All answers of a file. ValidationError for a row that is not valid."""
    with gzip.open(file, "rt", encoding="utf-8", newline="") as rows:
        return _lengths(csv.reader(rows))


def write_lengths(lengths: Iterable[OwnLength], file: Path = FILE) -> None:
    """Write a file, sorted: the same answers give the same bytes."""
    ordered = sorted(lengths, key=lambda each: (each.app, each.line, each.kind))
    rows = "".join(map(as_row, ordered))
    header = ",".join(OwnLength.__struct_fields__) + END_OF_ROW
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress((header + rows).encode(), mtime=0))


def as_row(length: OwnLength) -> str:
    """The row of an answer, with its end of line."""
    row = io.StringIO()
    values = (getattr(length, name) for name in OwnLength.__struct_fields__)
    csv.writer(row, lineterminator=END_OF_ROW).writerow(
        [str(value).lower() if isinstance(value, bool) else value for value in values]
    )
    return row.getvalue()


def from_rows(rows: Iterable[str]) -> list[OwnLength]:
    """The answers of rows without a header. ValidationError for an invalid one."""
    return _lengths(csv.reader([",".join(OwnLength.__struct_fields__), *rows]))


def _lengths(rows: Iterable[list[str]]) -> list[OwnLength]:
    header, *others = rows
    found = [{name: cell for name, cell in zip(header, row, strict=True) if cell} for row in others]
    return msgspec.convert(found, list[OwnLength], strict=False)
