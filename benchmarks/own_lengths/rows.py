"""The rows and targets of P1-own."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from benchmarks.harness.report import Row, Target, target
from benchmarks.own_lengths.forms import FIELDS
from benchmarks.own_lengths.lengths_file import OwnLength, line_id
from benchmarks.own_lengths.noise_floor import NoiseFloor, floor_of, way_to_floor
from gateway.evaluation.baselines import APP_MEAN, APP_MEDIAN, INPUT_LENGTH, LINE_PER_APP
from gateway.evaluation.experiment import OURS, EvaluationRun
from gateway.evaluation.lengths import count_words
from gateway.evaluation.magnus import NAME as MAGNUS
from gateway.evaluation.scoring import POOLED
from gateway.prediction.censoring import kaplan_meier
from gateway.prediction.training.scorecard import covered, mean, rms
from gateway.quantiles import Bools, Floats

BASELINES: Final = (LINE_PER_APP, APP_MEDIAN, APP_MEAN, MAGNUS, INPUT_LENGTH)
MIN_WAY: Final = 0.6
COVERAGE_RANGE: Final = (0.86, 0.94)


def error_rows(run: EvaluationRun, floors: dict[str, NoiseFloor]) -> Iterator[Row]:
    """log-RMSE of every predictor by app, the noise floor, and ours less the line's."""
    for app, line in run.summary.versus[LINE_PER_APP].items():
        floor = floors.get(app)
        yield {
            "app": app,
            "n": run.summary.scores[OURS][app].rows,
            OURS: line.ours,
            **{name: run.summary.versus[name][app].theirs for name in BASELINES},
            "noise floor": floor.floor if floor else None,
            "ours - line": line.difference,
            "low": line.low,
            "high": line.high,
        }


def way_rows(run: EvaluationRun, lengths: Iterable[OwnLength]) -> Iterator[Row]:
    """How far each predictor gets from the app's median to the noise floor.

    On the lines that were answered twice, each prediction against both answers.
    """
    second = {each.line: each.answer_tokens for each in lengths if each.kind == "again"}
    places = [place for place, line in enumerate(run.lines) if line_id(line) in second]
    if not places:
        return
    again = np.array([second[line_id(run.lines[place])] for place in places], np.float64)
    answers = np.log1p(np.column_stack((run.tokens[places], again)))
    errors = {
        name: answers - each.location[places][:, None] for name, each in run.forecasts.items()
    }
    for name, own in errors.items():
        way, low, high = way_to_floor(own, errors[APP_MEDIAN])
        yield {
            "predictor": name,
            "lines": len(places),
            "both answers": rms(own),
            "floor": floor_of(answers[:, 0] - answers[:, 1]),
            "way": way,
            "way low": low,
            "way high": high,
        }


def floor_rows(floors: dict[str, NoiseFloor]) -> Iterator[Row]:
    """The pairs: the error of a second answer, and of the best prediction."""
    for app, each in floors.items():
        yield {
            "app": app,
            "pairs": each.pairs,
            "second answer": each.second,
            "floor": each.floor,
            "low": each.low,
            "high": each.high,
            "τ of the two": each.tau,
        }


def coverage_rows(run: EvaluationRun) -> Iterator[Row]:
    """The share of answers within P90, by app.

    `generated`: tokens within the served P90, which max_tokens limits; `limited`: where P90 is
    max_tokens, which covers any answer; `natural`: lengths within P90 without the limit, those of
    cut-off answers by Kaplan and Meier.
    """
    served, natural = run.forecasts[OURS].p90, run.natural[OURS].p90
    within, limited = covered(run.tokens, served), covered(run.max_tokens, served)
    cut_off = run.tokens >= run.max_tokens
    for app in (*map(str, np.unique(run.names)), POOLED):
        rows = (run.names == app) | (app == POOLED)
        yield {
            "app": app,
            "cut off": mean(cut_off[rows].astype(float)),
            "generated": mean(within[rows].astype(float)),
            "limited": mean(limited[rows].astype(float)),
            "natural": natural_coverage(run.tokens[rows], cut_off[rows], natural[rows]),
        }


def natural_coverage(tokens: Floats, cut_off: Bools, quantile: Floats) -> float:
    """The share of natural lengths within a quantile, (n,) each, n ≥ 1.

    A cut-off answer's score is a lower bound (`gateway.prediction.censoring`).
    """
    values, weights = kaplan_meier(np.log(tokens) - np.log(quantile), cut_off)
    return float(weights[values <= 0].sum())


def length_rows(run: EvaluationRun, lengths: Sequence[OwnLength]) -> Iterator[Row]:
    """How the model's own lengths differ from the references', by app.

    `r` is Pearson's, of log lengths of input and answer. `greedy cut off`, and of those cut off the
    share that repeats what it said, are of the greedy answers.
    """
    references = count_words([line.output for line in run.lines]).astype(float)
    inputs = count_words([line.input for line in run.lines]).astype(float)
    for app in map(str, np.unique(run.names)):
        rows = run.names == app
        greedy = [each for each in lengths if each.app == app and each.kind == "greedy"]
        noted = [
            each
            for each in lengths
            if each.app == app
            and each.cut_off
            and each.repeats is not None
            and each.kind not in FIELDS
        ]
        yield {
            "app": app,
            "own median": float(np.median(run.tokens[rows])),
            "reference median, words": float(np.median(references[rows])),
            "own r": _log_correlation(inputs[rows], run.tokens[rows]),
            "reference r": _log_correlation(inputs[rows], references[rows]),
            "sampled cut off": mean((run.tokens >= run.max_tokens)[rows].astype(float)),
            "greedy cut off": _share([each.cut_off for each in greedy]),
            "of cut off repeat": _share([bool(each.repeats) for each in noted]),
        }


def targets(ways: Sequence[Row], coverage: Sequence[Row]) -> list[Target]:
    """The targets; without pairs the first is missed."""
    way = next((row["way"] for row in ways if row["predictor"] == OURS), None)
    natural = coverage[-1]["natural"]
    return [
        target("way from app median to noise floor", way, MIN_WAY),
        target("P90 covers natural lengths", natural, COVERAGE_RANGE[0]),
        target("P90 covers natural lengths", natural, COVERAGE_RANGE[1], "at most"),
    ]


def _log_correlation(left: Floats, right: Floats) -> float:
    return float(np.corrcoef(np.log1p(left), np.log1p(right))[0, 1])


def _share(which: Sequence[bool]) -> float | None:
    return sum(which) / len(which) if which else None
