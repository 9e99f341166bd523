"""Writes docs/report.md from the committed results and pictures."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from msgspec import structs

from benchmarks.harness.paths import PLOTS, README, ROOT
from benchmarks.harness.report import Result, Row, rows_table, targets_table
from benchmarks.report.captions import CAPTIONS
from benchmarks.report.figure import KINDS, LIVE, Excerpt, Figure
from benchmarks.report.sections import FIGURES

PAGE: Final = ROOT / "docs" / "report.md"
CONSTRAINTS: Final = ROOT / "constraints.txt"
PACKAGES: Final = ("torch", "transformers", "lightgbm", "numpy", "litestar", "uvicorn")
PICTURE: Final = re.compile(r"!\[([^\]]+)\]\([^)]*?([^/)]+)\.png\)")
BENCHMARKS: Final = "../benchmarks"

INTRODUCTION: Final = """\
# Report

<!-- written by `make report` (benchmarks/report); do not edit -->

This gateway predicts the length of every answer before it is written, and batches, orders and
admits requests by it. This page has its main figures: against the published systems that it
implements ([Magnus](https://arxiv.org/abs/2406.04785), [S³](https://arxiv.org/abs/2306.06000)),
against first come, first served, and of its engine against others. Every figure is one command;
missed targets are shown as missed. `make report` writes this page from `benchmarks/results`; how
each figure is measured, and all rows, are in [benchmarks](../benchmarks/README.md); the
[glossary](glossary.md) explains the terms.
"""


def page(results: Sequence[Result], plots: Path) -> str:
    """The page of these results, with the pictures below `plots`."""
    found = {each.title: part_of(each, results) for each in FIGURES}
    sections = (_section(each, found[each.title], plots) for each in FIGURES)
    return "\n".join((INTRODUCTION, _overview(found), _method(found.values()), *sections))


def part_of(figure: Figure, results: Iterable[Result]) -> Result | None:
    """What the results have of a figure; None if it has not been run."""
    by_name = {_plain(result.figure): result for result in results}
    own = None if figure.part is None else by_name.get(_plain(f"{figure.result}{figure.part}"))
    if own is not None:
        return own
    shared = by_name.get(_plain(figure.result))
    if shared is None:
        return None
    others = [each.part for each in FIGURES if each.result == figure.result and each.part]
    rows = [row for row in shared.rows if _belongs(row.get("part"), figure.part, others)]
    targets = [each for each in shared.targets if _belongs(each.name, figure.part, others)]
    return structs.replace(shared, rows=rows, targets=targets) if rows or targets else None


def _belongs(name: object, part: str | None, others: Sequence[str]) -> bool:
    """Whether what has this name belongs to a part; without a part, to no other."""
    words = set(re.findall(r"\w+", str(name)))
    return part in words if part else not words & set(others)


def _overview(found: dict[str, Result | None]) -> str:
    lines = ["| figure | | measured | targets met |", "|---|---|---|--:|"]
    for figure in FIGURES:
        result = found[figure.title]
        if result is None:
            measured, met = "not run", ""
        else:
            measured = f"{result.taken_at[:10]}, commit {result.commit}"
            met = f"{sum(each.met for each in result.targets)} of {len(result.targets)}"
        link = f"[{figure.title}](#{anchor(figure.title)})"
        lines.append(f"| {link} | {figure.kind} | {measured} | {met} |")
    return "\n".join(("## Overview\n", *lines, ""))


def anchor(heading: str) -> str:
    """The anchor that GitHub generates for a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _method(found: Iterable[Result | None]) -> str:
    machines = sorted({result.machine for result in found if result is not None})
    kinds = "\n".join(f"- *{name}*: {meaning}" for name, meaning in KINDS.items())
    pinned = ", ".join(f"{name} {version}" for name, version in _versions())
    return f"""\
## Machine, versions, and what is simulated

Machine: {"; ".join(machines) or "none yet"}. No figure on this page was measured on a GPU: what is
said of GPUs is simulated, from published properties of the cards.

Versions, as pinned: {pinned}.
Each figure names the commit that it was measured at; a `+` means that the working tree differed
from it.

{kinds}
"""


def _versions() -> Iterator[tuple[str, str]]:
    pinned = dict(line.split("==") for line in CONSTRAINTS.read_text().splitlines() if "==" in line)
    for name in PACKAGES:
        yield name, pinned[name]


def _section(figure: Figure, result: Result | None, plots: Path) -> str:
    parts = [f"## {figure.title}", f"{figure.about} ({KINDS[figure.kind].capitalize()}.)"]
    if result is None:
        return "\n\n".join((*parts, f"**Not run yet**: `{figure.command}`.\n"))
    parts.append(f"`{figure.command}`; {result.machine}; commit {result.commit}; {result.taken_at}")
    if result.targets:
        parts.append(targets_table([(result.figure, each) for each in result.targets]))
    parts += [text for each in figure.excerpts if (text := _excerpt(each, result.rows))]
    parts += [_picture(path, figure) for path in pictures(figure, plots)]
    if figure.details:
        parts.append(f"Details: [benchmarks]({BENCHMARKS}/README.md#{figure.details}).")
    return "\n\n".join(parts) + "\n"


def _excerpt(excerpt: Excerpt, rows: Iterable[Row]) -> str:
    """The table of an excerpt; empty without a row that has all its fields."""
    shown = [
        {heading: row[field] for field, heading in excerpt.columns.items()}
        for row in rows
        if row.items() >= excerpt.where.items() and row.keys() >= excerpt.columns.keys()
    ]
    return "\n\n".join(part for part in (excerpt.title, rows_table(shown)) if part) if shown else ""


def pictures(figure: Figure, plots: Path) -> list[Path]:
    """The pictures of a figure, by name."""
    own = _plain(f"{figure.result}{figure.part or ''}")
    others = [each.part for each in FIGURES if each.result == figure.result and each.part]
    found = []
    for path in sorted(plots.glob("*/*.png")):
        folder = _plain(path.parent.name)
        shared = folder == _plain(figure.result)
        part = LIVE if figure.part == LIVE else None  # only live pictures name their part
        if folder == own or (shared and _belongs(path.stem, part, [*others, LIVE])):
            found.append(path)
    return found


def _picture(path: Path, figure: Figure) -> str:
    caption = CAPTIONS.get(path.stem) or _alternative_texts().get(path.stem) or figure.title
    return f"![{caption}]({BENCHMARKS}/{path.relative_to(PLOTS.parent)})\n\n*{caption}*"


def _alternative_texts() -> dict[str, str]:
    """The text for each picture in benchmarks/README.md, by the name of its file."""
    return {name: text for text, name in PICTURE.findall(README.read_text())}


def _plain(name: str) -> str:
    """A name in lower case, without hyphens and the like."""
    return re.sub(r"[\W_]", "", name.lower())
