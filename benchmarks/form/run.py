"""form: length prediction where an app's answers have several forms, with and without the feature.

SmolLM2 answered the same texts freely, as JSON of a schema, and by a required tool call. An app's
requests of all three arrive mixed, in random order. Predicted is what is generated, at most
`max_tokens`, by the length history alone and by versions of the other four fifths of the texts.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.form.mixed_lines import mixed_lines, without_forms
from benchmarks.form.sides import HISTORY, VERSION, by_history, by_version
from benchmarks.harness.paths import CACHE
from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.own_lengths.lengths_file import Kind, OwnLength, read_lengths
from benchmarks.own_lengths.rows import natural_coverage
from benchmarks.p5.curve import ratio
from gateway.evaluation.arrivals import EvaluationRequests, RequestBuilder
from gateway.evaluation.corpus import CorpusLine, read_lines
from gateway.evaluation.forecast import Forecast
from gateway.evaluation.scoring import score
from gateway.evaluation.sentences import SentenceEmbedder
from gateway.evaluation.vectors import TextVectors
from gateway.prediction.messages import FORMS, Form
from gateway.prediction.training.scorecard import pinball_losses
from gateway.quantiles import Floats

FIGURE: Final = "form"
ALL: Final = "all"
MAX_RATIO: Final = 0.95
COVERAGE: Final = (0.86, 0.94)
OFFERED: Final[Mapping[Kind, Form]] = {"sampled": "free", "offered": "tool"}


def run(data: Path, threads: int) -> None:
    """Evaluate on the committed lengths; the texts are those of the folder."""
    report = Report(FIGURE, look=False)
    lengths, texts = read_lengths(), list(read_lines(data))
    requests = _requests(mixed_lines(texts, lengths), threads, report)
    report.say(f"{len(requests)} answers, by history")
    sides = [(HISTORY, requests, by_history(requests), by_history(without_forms(requests)))]
    report.say("by versions of four fifths")
    sides.append((VERSION, *by_version(requests, threads)))
    rows: list[Row] = []
    for name, tested, with_form, without in sides:
        rows += side_rows(name, tested, with_form, without)
    rows += length_rows(lengths)
    apart = mixed_lines(texts, lengths, OFFERED)
    rows.append(offered_row(_requests(apart, threads, report)))
    report.conclude(rows, targets(rows))


def _requests(lines: list[CorpusLine], threads: int, report: Report) -> EvaluationRequests:
    embedder = SentenceEmbedder(threads, CACHE / "magnus", report.say)
    return RequestBuilder(None, TextVectors(), embedder, history=False).build(lines)


def side_rows(
    name: str, requests: EvaluationRequests, with_form: Forecast, without: Forecast
) -> Iterator[Row]:
    """The quality with and without the form, of each form and of all answers.

    `coverage` is of natural lengths, as in P1-own; all else of what is generated.
    """
    forms = np.array([line.form for line in requests.lines])
    both = [each.capped(requests.max_tokens) for each in (with_form, without)]
    for form in (*FORMS, ALL):
        which = (forms == form) | (form == ALL)
        tokens, cut_off = requests.tokens[which], requests.censored[which]
        ours, theirs = (score(tokens, each.rows(which)) for each in both)
        over, low, high = pinball_ratio(tokens, *(each.rows(which) for each in both))
        yield {
            "by": name,
            "form": form,
            "answers": len(tokens),
            "log-RMSE": ours.log_rmse_mean,
            "without": theirs.log_rmse_mean,
            "pinball": ours.pinball,
            "pinball without": theirs.pinball,
            "ratio": over,
            "low": low,
            "high": high,
            "τ": ours.tau,
            "τ without": theirs.tau,
            "coverage": natural_coverage(tokens, cut_off, with_form.p90[which]),
            "coverage without": natural_coverage(tokens, cut_off, without.p90[which]),
            "held ÷ used": ours.over_total,
            "held ÷ used without": theirs.over_total,
        }


def pinball_ratio(tokens: Floats, ours: Forecast, theirs: Forecast) -> tuple[float, float, float]:
    """Our mean pinball loss on log tokens over theirs, with its 95 % interval."""
    logs = np.log(tokens)
    losses = [pinball_losses(logs, each.log_quantiles).mean(axis=1) for each in (ours, theirs)]
    mine, other = ({str(row): loss for row, loss in enumerate(each)} for each in losses)
    return ratio(mine, other)


def length_rows(lengths: list[OwnLength]) -> Iterator[Row]:
    """How long the answers of each kind are, on the lines that were answered in all."""
    kinds = ("sampled", "json", "tool", "offered")
    found = {kind: {each.line: each for each in lengths if each.kind == kind} for kind in kinds}
    lines = set.intersection(*(set(each) for each in found.values()))
    for kind in kinds:
        own = [found[kind][line] for line in lines]
        tokens = np.array([each.answer_tokens for each in own])
        q10, q50, q90 = np.quantile(tokens, [0.1, 0.5, 0.9]).tolist()
        yield {
            "kind": kind,
            "answers": len(own),
            "10 %": q10,
            "median": q50,
            "90 %": q90,
            "cut off": float(np.mean([each.cut_off for each in own])),
            "calls": float(np.mean([each.finish == "tool_calls" for each in own])),
        }


def offered_row(requests: EvaluationRequests) -> Row:
    """What history gains by learning answers with a tool offered apart from those without.

    Of these requests half may call a tool, which counts as a form of its own.
    """
    forecasts = by_history(requests), by_history(without_forms(requests))
    capped = [each.capped(requests.max_tokens) for each in forecasts]
    over, low, high = pinball_ratio(requests.tokens, *capped)
    return {
        "by": HISTORY,
        "offered apart": True,
        "answers": len(requests),
        "ratio": over,
        "low": low,
        "high": high,
    }


def targets(rows: list[Row]) -> list[Target]:
    """Targets of all forms together, and of the coverage of each form."""
    found: list[Target] = []
    for row in rows:
        if "form" not in row:
            continue
        name = f"{row['by']}, {row['form']}"
        if row["form"] == ALL:
            bound = f"{name}: pinball over that without"
            found.append(target(bound, row["ratio"], MAX_RATIO, "at most"))
        found.append(target(f"{name}: P90 covers", row["coverage"], COVERAGE[0]))
        found.append(target(f"{name}: P90 covers", row["coverage"], COVERAGE[1], "at most"))
    return found
