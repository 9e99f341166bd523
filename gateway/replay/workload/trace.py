"""Reads trace files: CSV, gzipped or not, a request a line. docs/replay.md has the format."""

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
from gateway.replay.workload.workload import DEFAULT_NAME, NO_USER, Workload

REQUIRED_COLUMNS: Final = ("arrival_s", "prompt_tokens", "generation_tokens")
QUANTILE_COLUMNS: Final = tuple(f"q{100 * level:.0f}" for level in LEVELS)
CHUNK_ROWS: Final = 50_000
MAX_TOKENS: Final = 2**30

Rows: TypeAlias = list[tuple[int, list[str]]]  # line number, cells
AnyArray: TypeAlias = npt.NDArray[Any]


class InvalidCell(Exception):
    """A cell that cannot be used: its index in a chunk of rows, and the reason."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index
        self.reason = reason


def read_trace(path: Path) -> Workload:
    """The requests of a trace in order of arrival, the first at time 0.

    NotFound for a missing file; InvalidRequest names file and line of an error.
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
        columns = _TraceColumns(path, header)
        while chunk := [(rows.line_num, row) for row in islice(rows, CHUNK_ROWS)]:
            columns.add([line for line in chunk if line[1]])
    except csv.Error as error:
        raise InvalidRequest(f"{path}:{rows.line_num}: {error}") from error
    return columns.workload()


class _TraceColumns:
    """Collects chunks of rows as arrays, a list of them for each column."""

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self._path = path
        self._header = header
        self._names: dict[str, dict[str, int]] = {"tenant": {}, "app": {}}
        self._users: dict[str, int] = {"": NO_USER}
        self._parsers: dict[str, Callable[[Sequence[str]], AnyArray]] = {
            "arrival_s": _times,
            "prompt_tokens": _tokens,
            "generation_tokens": _tokens,
            "max_tokens": _tokens,
            "deadline_s": _deadlines,
            "tenant": lambda cells: _numbered(cells, self._names["tenant"]),
            "app": lambda cells: _numbered(cells, self._names["app"]),
            "user": lambda cells: _numbered(cells, self._users),
            **dict.fromkeys(QUANTILE_COLUMNS, _quantiles),
        }
        self._check_header()
        self._found: dict[str, list[AnyArray]] = {
            name: [] for name in self._parsers if name in self._header
        }

    def add(self, rows: Rows) -> None:
        """Add a chunk. InvalidRequest names the first invalid line."""
        width = len(self._header)
        for line, row in rows:
            if len(row) != width:
                raise InvalidRequest(
                    f"{self._path}:{line}: {len(row)} cells where the header has {width}"
                )
        if not rows:
            return
        columns = zip(*(row for _, row in rows), strict=True)
        cells: dict[str, Sequence[str]] = dict(zip(self._header, columns, strict=True))
        try:
            self._add(cells)
        except InvalidCell as error:
            line = rows[error.index][0]
            raise InvalidRequest(f"{self._path}:{line}: {error.reason}") from error

    def workload(self) -> Workload:
        """The requests. InvalidRequest if there are none."""
        whole: dict[str, Any] = {
            name: np.concatenate(parts) for name, parts in self._found.items() if parts
        }
        if not whole:
            raise InvalidRequest(f"{self._path} has no requests")
        for number, quantile in enumerate(
            whole.pop(name) for name in QUANTILE_COLUMNS if name in whole
        ):
            table = whole.setdefault("quantiles", _empty_quantiles(len(quantile)))
            table[:, number] = quantile
        tenants, apps = (list(names) or [DEFAULT_NAME] for names in self._names.values())
        return Workload.of(
            whole.pop("arrival_s"),
            whole.pop("prompt_tokens"),
            whole.pop("generation_tokens"),
            tenants=tenants,
            apps=apps,
            **whole,
        )

    def _check_header(self) -> None:
        missing = [name for name in REQUIRED_COLUMNS if name not in self._header]
        some = [name for name in QUANTILE_COLUMNS if name in self._header]
        if some and len(some) < len(QUANTILE_COLUMNS):
            missing += [name for name in QUANTILE_COLUMNS if name not in some]
        if missing:
            raise InvalidRequest(f"{self._path}:1: there is no column {', '.join(missing)}")
        twice = {name for name in self._header if self._header.count(name) > 1}
        if twice:
            raise InvalidRequest(f"{self._path}:1: column {', '.join(sorted(twice))} comes twice")

    def _add(self, cells: dict[str, Sequence[str]]) -> None:
        made = {}
        for name in self._found:
            try:
                made[name] = self._parsers[name](cells[name])
            except InvalidCell as error:
                raise InvalidCell(error.index, f"{name}: {error.reason}") from error
        _check_lengths(made)
        for name, values in made.items():
            self._found[name].append(values)


def _check_lengths(columns: dict[str, AnyArray]) -> None:
    """Check columns against each other: lengths within max_tokens, quantiles in order."""
    if "max_tokens" in columns:
        over = columns["generation_tokens"] > columns["max_tokens"]
        _reject(over, "generation_tokens is above max_tokens")
    for lower, upper in pairwise(QUANTILE_COLUMNS):
        if upper in columns:
            _reject(columns[lower] > columns[upper], f"{lower} is above {upper}")


def _times(cells: Sequence[str]) -> AnyArray:
    found = _floats(cells)
    _reject(~np.isfinite(found), "not a number of seconds", cells)
    return found


def _tokens(cells: Sequence[str]) -> AnyArray:
    found = _floats(cells)
    whole = (found == np.floor(found)) & (found >= 1) & (found <= MAX_TOKENS)
    _reject(~whole, "not a whole number from 1", cells)
    return found.astype(np.int32)


def _quantiles(cells: Sequence[str]) -> AnyArray:
    found = _floats(cells)
    _reject(~(np.isfinite(found) & (found >= 0)), "not a number of tokens", cells)
    return found.astype(np.float32)


def _deadlines(cells: Sequence[str]) -> AnyArray:
    """Seconds from the arrival, NaN for an empty cell: no deadline."""
    found = _floats([cell or "nan" for cell in cells])
    given = np.array([bool(cell) for cell in cells])
    _reject(given & ~(np.isfinite(found) & (found > 0)), "not a number of seconds above 0", cells)
    return found


def _numbered(cells: Sequence[str], names: dict[str, int]) -> AnyArray:
    return np.array([names.setdefault(cell, len(names)) for cell in cells], np.int32)


def _floats(cells: Sequence[str]) -> AnyArray:
    """The cells as numbers, NaN for other text."""
    try:
        return np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return np.fromiter(map(_float, cells), np.float64, len(cells))


def _float(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _reject(wrong: AnyArray, reason: str, cells: Sequence[str] | None = None) -> None:
    """InvalidCell for the first row where `wrong` is true."""
    if wrong.any():
        index = int(wrong.argmax())
        raise InvalidCell(index, f"{cells[index]!r} is {reason}" if cells else reason)


def _empty_quantiles(count: int) -> AnyArray:
    return np.empty((count, len(QUANTILE_COLUMNS)), np.float32)
