"""P1: length prediction on real text, against baselines and Magnus as published.

Three runs per length rule. `off`, without history, is the published figure, with all baselines.
With history, train lines and then test lines arrive in a shuffled order, and each outcome is known
before the next request. `apps` uses the earlier lengths of the app. The data has no users, so
`apps and sources` uses the source of a line as its user, the only known property of its author; for
an app with one source both runs are equal.

`inputs` is an ablation: what the predictor reaches with the length alone, with the text vectors,
with the embeddings of user inputs and of instructions, and with history.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.harness.paths import CACHE
from benchmarks.harness.report import Report, Row, Target
from benchmarks.p1.ablation import HISTORY, ablation_row, ablation_rows, unseen_app_rows
from benchmarks.p1.rows import app_rows, midflight_rows, overall_rows, source_rows, versus_rows
from benchmarks.p1.targets import targets
from gateway.evaluation.arrivals import RequestBuilder
from gateway.evaluation.corpus import Corpus, CorpusLine, read_corpus
from gateway.evaluation.experiment import OURS, EvaluationOptions, EvaluationRun
from gateway.evaluation.experiment import run as evaluate
from gateway.evaluation.lengths import LengthRule, token_counter
from gateway.evaluation.plots import draw
from gateway.evaluation.sentences import Progress, SentenceEmbedder
from gateway.evaluation.vectors import TextVectors

ALL_RULES: Final[tuple[LengthRule, ...]] = ("words", "bpe")
ABLATED_RULE: Final[LengthRule] = "words"
NO_HISTORY: Final = "off"
APP_HISTORY: Final = "apps"
APP_AND_SOURCE_HISTORY: Final = "apps and sources"


@dataclass
class RuleRuns:
    """The runs of one length rule: without history, and with it."""

    rule: LengthRule
    without_history: EvaluationRun | None = None
    with_history: dict[str, EvaluationRun] = field(default_factory=dict)
    ablation: list[Row] = field(default_factory=list)


def run(data: Path, rules: Sequence[LengthRule], apps: Sequence[str], threads: int) -> None:
    """Evaluate on the folder with each rule; the result is written after each run."""
    partial = bool(apps) or tuple(rules) != ALL_RULES
    corpus = read_corpus(data, data)
    corpus = corpus.only(apps) if apps else corpus
    report = Report("P1", look=partial)
    texts = TextVectors()
    runs = [RuleRuns(rule) for rule in rules]
    for rule_runs in runs:
        for history in (NO_HISTORY, APP_HISTORY, APP_AND_SOURCE_HISTORY):
            report.say(f"{rule_runs.rule}, history {history}")
            options = EvaluationOptions(
                lengths=rule_runs.rule,
                history=history != NO_HISTORY,
                baselines=history == NO_HISTORY,
                peers=history == NO_HISTORY,
                threads=threads,
                cache=CACHE / "magnus",
            )
            lines = with_users(corpus) if history == APP_AND_SOURCE_HISTORY else corpus
            result = evaluate(lines, options, texts, report.say)
            if history == NO_HISTORY:
                rule_runs.without_history = result
                draw(result, report.plots, f"P1-{rule_runs.rule}-")
            else:
                rule_runs.with_history[history] = result
            report.write(rows_of(runs), list(_targets(runs)))
        if rule_runs.rule == ABLATED_RULE:
            report.say("what each part of the inputs is worth")
            rule_runs.ablation = list(_ablation(corpus, rule_runs, texts, threads, report.say))
            report.write(rows_of(runs), list(_targets(runs)))
    report.conclude(rows_of(runs), list(_targets(runs)))


def with_users(corpus: Corpus) -> Corpus:
    """The corpus with each line's source as its user."""
    return Corpus(*([_with_user(line) for line in part] for part in (corpus.train, corpus.test)))


def rows_of(runs: Iterable[RuleRuns]) -> list[Row]:
    """All rows of the runs so far."""
    return [row for rule_runs in runs for row in _rows(rule_runs)]


def _rows(runs: RuleRuns) -> Iterator[Row]:
    if runs.without_history is None:
        return
    yield from overall_rows(runs.without_history, NO_HISTORY)
    for history, result in runs.with_history.items():
        yield from overall_rows(result, history)
    yield from app_rows(runs.without_history.summary)
    yield from versus_rows(runs.without_history.summary)
    yield from source_rows(runs.without_history)
    yield from midflight_rows(runs.without_history.summary)
    yield from runs.ablation


def _ablation(
    corpus: Corpus, runs: RuleRuns, texts: TextVectors, threads: int, say: Progress
) -> Iterator[Row]:
    embedder = SentenceEmbedder(threads, CACHE / "magnus", say)
    count = token_counter(runs.rule, corpus.train)
    builder = RequestBuilder(count, texts, embedder, history=False)
    train, test = builder.build(corpus.train), builder.build(corpus.test)
    assert runs.without_history is not None
    yield from ablation_rows(train, test, runs.without_history.summary.scores[OURS], threads)
    with_history = runs.with_history[APP_AND_SOURCE_HISTORY].summary
    yield ablation_row(HISTORY, with_history.scores[OURS])
    yield from unseen_app_rows(train, threads)


def _targets(runs: Iterable[RuleRuns]) -> Iterator[Target]:
    for rule_runs in runs:
        if rule_runs.without_history is not None:
            with_history = rule_runs.with_history.get(APP_AND_SOURCE_HISTORY)
            yield from targets(
                rule_runs.without_history.summary,
                with_history.summary if with_history is not None else None,
            )


def _with_user(line: CorpusLine) -> CorpusLine:
    return msgspec.structs.replace(line, user=line.source)
