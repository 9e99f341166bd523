"""Writes a figure's result as JSON, and the tables of README.md from all results."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct, structs

from benchmarks.harness.machine import commit, machine
from benchmarks.harness.paths import CACHE, PLOTS, README, RESULTS

BEGIN: Final = "<!-- results: written by benchmarks/harness/report.py -->\n"
END: Final = "<!-- end of results -->\n"
MIN_SHOWN_WHOLE: Final = 100

Row = dict[str, Any]


class Target(Struct, frozen=True):
    """A bound on a measured value. Without a value, as a side is missing, it counts as missed."""

    name: str
    value: float | None
    target: float
    met: bool


class Result(Struct, frozen=True):
    """One figure, measured in one run."""

    figure: str
    commit: str
    machine: str
    taken_at: str
    rows: list[Row]
    targets: list[Target]


class Report:
    """Writes a figure's result.

    Full rows go to `.bench`: to `results`, or to `looks` for a quick look. The committed file in
    `benchmarks/results` has the cells that README.md shows; a quick look leaves both alone.
    """

    def __init__(self, figure: str, look: bool) -> None:
        self._figure = figure
        self._look = look
        self._commit, self._machine = commit(), machine()
        print(f"{figure} at {self._commit} on {self._machine}", flush=True)

    @property
    def path(self) -> Path:
        """The file with full rows."""
        return CACHE / ("looks" if self._look else "results") / f"{self._figure}.json"

    @property
    def plots(self) -> Path:
        """The folder for pictures."""
        return CACHE / "looks" if self._look else PLOTS / self._figure

    def say(self, line: str) -> None:
        """Print a line of progress."""
        print(f"{datetime.now(UTC):%H:%M:%S} {line}", flush=True)

    def write(self, rows: list[Row], targets: list[Target]) -> None:
        """Write the rows measured so far, replacing earlier files."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        result = Result(self._figure, self._commit, self._machine, now, rows, targets)
        _write(self.path, result)
        if not self._look:
            committed = structs.replace(result, rows=[table_cells(row) for row in rows])
            _write(RESULTS / f"{self._figure}.json", committed)
            write_tables(README, RESULTS)

    def committed(self, parts: Sequence[str]) -> tuple[list[Row], list[Target]]:
        """The rows and targets of parts that are not measured now; none in a quick look.

        A target's name starts with its part.
        """
        file = RESULTS / f"{self._figure}.json"
        if self._look or not file.exists():
            return [], []
        result = msgspec.json.decode(file.read_bytes(), type=Result)
        return (
            [row for row in result.rows if row["part"] in parts],
            [bound for bound in result.targets if bound.name.startswith(tuple(parts))],
        )

    def conclude(self, rows: list[Row], targets: list[Target]) -> None:
        """Write the final rows and print them."""
        self.write(rows, targets)
        print("\n" + rows_table(rows) + "\n\n" + targets_table([(None, t) for t in targets]))
        print(f"\nwritten to {self.path}", flush=True)


def target(
    name: str, value: float | None, bound: float, kind: Literal["at least", "at most"] = "at least"
) -> Target:
    """A target with its verdict; its name ends with the kind."""
    met = value is not None and (value >= bound if kind == "at least" else value <= bound)
    return Target(f"{name}, {kind}", value, bound, met)


def read_results(folder: Path) -> list[Result]:
    """All results of a folder, by file name."""
    return [
        msgspec.json.decode(path.read_bytes(), type=Result)
        for path in sorted(folder.glob("*.json"))
    ]


def write_tables(readme: Path, results: Path) -> None:
    """Replace the section between the marks of README.md by the tables of all result files."""
    found = read_results(results)
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(before + BEGIN + tables(found) + END + after)


def tables(results: list[Result]) -> str:
    """One table of all targets, then each figure's rows."""
    verdicts = [(result.figure, verdict) for result in results for verdict in result.targets]
    parts = [targets_table(verdicts)]
    for result in results:
        where = f"{result.machine}; commit {result.commit}; {result.taken_at}"
        parts.append(f"### {result.figure}\n\n{where}\n\n{rows_table(result.rows)}")
    return "\n" + "\n\n".join(parts) + "\n\n"


def targets_table(verdicts: Sequence[tuple[str | None, Target]]) -> str:
    """Figure, target, value and verdict, one line each."""
    lines = ["| figure | target | | measured | |", "|---|---|--:|--:|---|"]
    for figure, verdict in verdicts:
        value = "missing" if verdict.value is None else shown(verdict.value)
        met = "met" if verdict.met else "**missed**"
        lines.append(
            f"| {figure or ''} | {verdict.name} | {shown(verdict.target)} | {value} | {met} |"
        )
    return "\n".join(lines)


def table_cells(row: Row) -> Row:
    """The cells of a row that tables show: all but lists and objects."""
    return {name: value for name, value in row.items() if not isinstance(value, list | dict)}


def rows_table(rows: list[Row]) -> str:
    """A table for each set of fields, of the rows that have exactly these."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in map(table_cells, rows):
        groups.setdefault(tuple(row), []).append(row)
    return "\n\n".join(_table(fields, group) for fields, group in groups.items())


def shown(value: object) -> str:
    """A number with three significant digits, or whole from 100 on; other values unchanged."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    if isinstance(value, int) or value.is_integer() or abs(value) >= MIN_SHOWN_WHOLE:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _write(path: Path, result: Result) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")


def _table(fields: tuple[str, ...], rows: list[Row]) -> str:
    lines = [f"| {' | '.join(fields)} |", f"|{'---|' * len(fields)}"]
    lines += [f"| {' | '.join(shown(row[name]) for name in fields)} |" for row in rows]
    return "\n".join(lines)
