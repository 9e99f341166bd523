"""Trace files: CSV, packed or not, a request a line; the format is told in docs/replay.md."""

import csv
import gzip
import zlib
from collections.abc import Callable, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Final, TextIO, TypeAlias

import numpy as np
import numpy.typing as npt

from gateway.errors import InvalidRequest, NotFound
from gateway.quantiles import LEVELS
from gateway.replay.workload.workload import NOBODY, Workload

NEEDED: Final = ("arrival_s", "prompt_tokens", "generation_tokens")
QUANTILES: Final = tuple(f"q{100 * level:.0f}" for level in LEVELS)
CHUNK_ROWS: Final = 50_000
MOST_TOKENS: Final = 2**30

Rows: TypeAlias = list[tuple[int, list[str]]]  # line number, cells
Values: TypeAlias = npt.NDArray[Any]


class BadCell(Exception):
    """The place in a chunk of a cell that says nothing usable, and why."""

    def __init__(self, place: int, reason: str) -> None:
        super().__init__(reason)
        self.place = place
        self.reason = reason


def read_trace(path: Path) -> Workload:
    """The requests of a trace in order of arrival, counted from the first.

    NotFound for a missing file; InvalidRequest names file and line of what cannot be read.
    """
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    try:
        with _opened(path) as file:
            return _read(path, file)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from error


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _read(path: Path, file: TextIO) -> Workload:
    rows = csv.reader(file, strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        columns = _Columns(path, header)
        while chunk := [(rows.line_num, row) for row in islice(rows, CHUNK_ROWS)]:
            columns.add([line for line in chunk if line[1]])
    except csv.Error as error:
        raise InvalidRequest(f"{path}:{rows.line_num}: {error}") from error
    return columns.workload()


class _Columns:
    """Gathers chunks of rows as arrays."""

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self._path = path
        self._header = header
        self._names: dict[str, dict[str, int]] = {"tenant": {}, "app": {}}
        self._kinds: dict[str, Callable[[Sequence[str]], Values]] = {
            "arrival_s": _times,
            "prompt_tokens": _tokens,
            "generation_tokens": _tokens,
            "max_tokens": _tokens,
            "deadline_s": _deadlines,
            "tenant": lambda cells: _numbered(cells, self._names["tenant"]),
            "app": lambda cells: _numbered(cells, self._names["app"]),
            **dict.fromkeys(QUANTILES, _quantiles),
        }
        self._check_header()
        self._found: dict[str, list[Values]] = {
            name: [] for name in self._kinds if name in self._header
        }

    def add(self, rows: Rows) -> None:
        """Read a chunk. InvalidRequest names the first line that is wrong."""
        wide = len(self._header)
        for line, row in rows:
            if len(row) != wide:
                raise InvalidRequest(
                    f"{self._path}:{line}: {len(row)} cells where the header has {wide}"
                )
        if not rows:
            return
        columns = zip(*(row for _, row in rows), strict=True)
        cells: dict[str, Sequence[str]] = dict(zip(self._header, columns, strict=True))
        try:
            self._add(cells)
        except BadCell as error:
            line = rows[error.place][0]
            raise InvalidRequest(f"{self._path}:{line}: {error.reason}") from error

    def workload(self) -> Workload:
        """All that was read. InvalidRequest if that is nothing."""
        whole = {name: np.concatenate(parts) for name, parts in self._found.items() if parts}
        if not whole:
            raise InvalidRequest(f"{self._path} has no requests")
        for number, quantile in enumerate(whole.pop(name) for name in QUANTILES if name in whole):
            table = whole.setdefault("quantiles", _table(len(quantile)))
            table[:, number] = quantile
        tenants, apps = (list(names) or [NOBODY] for names in self._names.values())
        return Workload.of(
            whole.pop("arrival_s"),
            whole.pop("prompt_tokens"),
            whole.pop("generation_tokens"),
            tenants=tenants,
            apps=apps,
            **whole,
        )

    def _check_header(self) -> None:
        missing = [name for name in NEEDED if name not in self._header]
        some = [name for name in QUANTILES if name in self._header]
        if some and len(some) < len(QUANTILES):
            missing += [name for name in QUANTILES if name not in some]
        if missing:
            raise InvalidRequest(f"{self._path}:1: there is no column {', '.join(missing)}")
        twice = {name for name in self._header if self._header.count(name) > 1}
        if twice:
            raise InvalidRequest(f"{self._path}:1: column {', '.join(sorted(twice))} comes twice")

    def _add(self, cells: dict[str, Sequence[str]]) -> None:
        made = {}
        for name in self._found:
            try:
                made[name] = self._kinds[name](cells[name])
            except BadCell as error:
                raise BadCell(error.place, f"{name}: {error.reason}") from error
        _check_lengths(made)
        for name, values in made.items():
            self._found[name].append(values)


def _check_lengths(columns: dict[str, Values]) -> None:
    """What one column says of another: the answer's bound, and the order of its quantiles."""
    if "max_tokens" in columns:
        over = columns["generation_tokens"] > columns["max_tokens"]
        _refuse(over, "generation_tokens is above max_tokens")
    for lower, upper in pairwise(QUANTILES):
        if upper in columns:
            _refuse(columns[lower] > columns[upper], f"{lower} is above {upper}")


def _times(cells: Sequence[str]) -> Values:
    found = _floats(cells)
    _refuse(~np.isfinite(found), "not a number of seconds", cells)
    return found


def _tokens(cells: Sequence[str]) -> Values:
    found = _floats(cells)
    whole = (found == np.floor(found)) & (found >= 1) & (found <= MOST_TOKENS)
    _refuse(~whole, "not a whole number from 1", cells)
    return found.astype(np.int32)


def _quantiles(cells: Sequence[str]) -> Values:
    found = _floats(cells)
    _refuse(~(np.isfinite(found) & (found >= 0)), "not a number of tokens", cells)
    return found.astype(np.float32)


def _deadlines(cells: Sequence[str]) -> Values:
    """Seconds from the arrival; an empty cell is no deadline."""
    found = _floats([cell or "nan" for cell in cells])
    given = np.array([bool(cell) for cell in cells])
    _refuse(given & ~(np.isfinite(found) & (found > 0)), "not a number of seconds above 0", cells)
    return found


def _numbered(cells: Sequence[str], names: dict[str, int]) -> Values:
    return np.array([names.setdefault(cell, len(names)) for cell in cells], np.int32)


def _floats(cells: Sequence[str]) -> Values:
    """The cells as numbers, NaN for what is none."""
    try:
        return np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return np.fromiter(map(_float, cells), np.float64, len(cells))


def _float(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _refuse(wrong: Values, reason: str, cells: Sequence[str] | None = None) -> None:
    """BadCell for the first that is wrong."""
    if wrong.any():
        place = int(wrong.argmax())
        raise BadCell(place, f"{cells[place]!r} is {reason}" if cells else reason)


def _table(count: int) -> Values:
    return np.empty((count, len(QUANTILES)), np.float32)
