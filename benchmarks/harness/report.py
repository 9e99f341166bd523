"""Writes a figure's result as JSON, and the tables of README.md from all of them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from benchmarks.harness.machine import commit, machine
from benchmarks.harness.paths import CACHE, README, RESULTS

BEGIN: Final = "<!-- results: written by benchmarks/harness/report.py -->\n"
END: Final = "<!-- end of results -->\n"
HUNDRED: Final = 100

Row = dict[str, Any]


class Target(Struct, frozen=True):
    """What a figure is held to. Without a value, because a side is missing, it is missed."""

    name: str
    value: float | None
    target: float
    met: bool


class Result(Struct, frozen=True):
    """One figure, as measured once."""

    figure: str
    commit: str
    machine: str
    taken_at: str
    rows: list[Row]
    targets: list[Target]


class Report:
    """Where a figure's result goes: beside the others, or, for a mere look, out of their way."""

    def __init__(self, figure: str, look: bool) -> None:
        self._figure = figure
        self._look = look
        self._commit, self._machine = commit(), machine()
        print(f"{figure} at {self._commit} on {self._machine}", flush=True)

    @property
    def path(self) -> Path:
        """The result's file."""
        folder = CACHE / "looks" if self._look else RESULTS
        return folder / f"{self._figure}.json"

    def say(self, line: str) -> None:
        """Print a line of progress."""
        print(f"{datetime.now(UTC):%H:%M:%S} {line}", flush=True)

    def write(self, rows: list[Row], targets: list[Target]) -> None:
        """Write what is known by now, over what was written before."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        result = Result(self._figure, self._commit, self._machine, now, rows, targets)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        encoded = msgspec.json.format(msgspec.json.encode(result), indent=1)
        self.path.write_bytes(encoded + b"\n")
        if not self._look:
            write_tables(README, RESULTS)

    def conclude(self, rows: list[Row], targets: list[Target]) -> None:
        """Write the last state, and print it."""
        self.write(rows, targets)
        print("\n" + rows_table(rows) + "\n\n" + targets_table([(None, t) for t in targets]))
        print(f"\nwritten to {self.path}", flush=True)


def target(
    name: str, value: float | None, bound: float, kind: Literal["at least", "at most"] = "at least"
) -> Target:
    """A target with its verdict; the kind becomes part of its name."""
    met = value is not None and (value >= bound if kind == "at least" else value <= bound)
    return Target(f"{name}, {kind}", value, bound, met)


def write_tables(readme: Path, results: Path) -> None:
    """Put the tables of all result files between the marks of README.md."""
    found = [
        msgspec.json.decode(path.read_bytes(), type=Result)
        for path in sorted(results.glob("*.json"))
    ]
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(before + BEGIN + tables(found) + END + after)


def tables(results: list[Result]) -> str:
    """All targets in one table, then each figure's rows."""
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


def rows_table(rows: list[Row]) -> str:
    """Rows with the same fields share a table; lists stay in the JSON."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        fields = tuple(name for name, value in row.items() if not isinstance(value, list | dict))
        groups.setdefault(fields, []).append(row)
    return "\n\n".join(_table(fields, group) for fields, group in groups.items())


def shown(value: object) -> str:
    """A number with the digits that mean something; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    if isinstance(value, int) or value.is_integer() or abs(value) >= HUNDRED:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _table(fields: tuple[str, ...], rows: list[Row]) -> str:
    lines = [f"| {' | '.join(fields)} |", f"|{'---|' * len(fields)}"]
    lines += [f"| {' | '.join(shown(row[name]) for name in fields)} |" for row in rows]
    return "\n".join(lines)
