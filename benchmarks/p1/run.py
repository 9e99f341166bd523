"""P1: length prediction on real text, against simpler predictors and Magnus as published.

Per rule of length three runs. `off` is the figure itself, beside all baselines. With history the
train lines are replayed in a shuffled order of arrival, then the test lines, each outcome known
before the next request: `apps` lets the app's earlier lengths be known; the data names no users,
so in `apps and sources` the source a line was taken from stands for its user, the only trait of
its author there is. Nothing about users is made up, and where an app has one source both are the
same.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.harness.paths import CACHE, PLOTS
from benchmarks.harness.report import Report, Row, Target
from benchmarks.p1.rows import app_rows, midflight_rows, overall_rows, source_rows, versus_rows
from benchmarks.p1.targets import targets
from gateway.evaluation.corpus import Corpus, CorpusLine, read_corpus
from gateway.evaluation.experiment import EvaluationOptions, EvaluationRun
from gateway.evaluation.experiment import run as evaluate
from gateway.evaluation.lengths import LengthRule
from gateway.evaluation.plots import draw
from gateway.evaluation.vectors import TextVectors

BOTH: Final[tuple[LengthRule, ...]] = ("words", "bpe")
OFF: Final = "off"
APPS: Final = "apps"
SOURCES: Final = "apps and sources"


@dataclass
class Found:
    """The runs of one rule of length: without history, and with it."""

    rule: LengthRule
    off: EvaluationRun | None = None
    on: dict[str, EvaluationRun] = field(default_factory=dict)


def run(data: Path, rules: Sequence[LengthRule], apps: Sequence[str], threads: int) -> None:
    """Evaluate on the folder by each rule; the result is written after every run."""
    look = bool(apps) or tuple(rules) != BOTH
    corpus = read_corpus(data, data)
    corpus = corpus.only(apps) if apps else corpus
    report = Report("P1", look=look)
    texts = TextVectors()
    found = [Found(rule) for rule in rules]
    for each in found:
        for history in (OFF, APPS, SOURCES):
            report.say(f"{each.rule}, history {history}")
            wanted = EvaluationOptions(
                lengths=each.rule,
                history=history != OFF,
                baselines=history == OFF,
                threads=threads,
                cache=CACHE / "magnus",
            )
            lines = with_users(corpus) if history == SOURCES else corpus
            done = evaluate(lines, wanted, texts, report.say)
            if history == OFF:
                each.off = done
                draw(done, CACHE / "looks" if look else PLOTS, f"P1-{each.rule}-")
            else:
                each.on[history] = done
            report.write(rows_of(found), list(_targets(found)))
    report.conclude(rows_of(found), list(_targets(found)))


def with_users(corpus: Corpus) -> Corpus:
    """The corpus with each line's source as its user."""
    return Corpus(*([_with_user(line) for line in part] for part in (corpus.train, corpus.test)))


def rows_of(found: Iterable[Found]) -> list[Row]:
    """All rows of what was run by now."""
    return [row for each in found for row in _rows(each)]


def _rows(found: Found) -> Iterator[Row]:
    if found.off is None:
        return
    yield from overall_rows(found.off, OFF)
    for history, done in found.on.items():
        yield from overall_rows(done, history)
    yield from app_rows(found.off.summary)
    yield from versus_rows(found.off.summary)
    yield from source_rows(found.off)
    yield from midflight_rows(found.off.summary)


def _targets(found: Iterable[Found]) -> Iterator[Target]:
    for each in found:
        if each.off is not None:
            on = each.on.get(SOURCES)
            yield from targets(each.off.summary, on.summary if on is not None else None)


def _with_user(line: CorpusLine) -> CorpusLine:
    return msgspec.structs.replace(line, user=line.source)
