"""prefill-head: what the hidden state after prefill would add to the length prediction.

On SmolLM2's own lengths, in P1-own's folds: ours as it is, and with a head on the last prompt
token's state, trained on 200, 1,000 or all of the other folds' rows. Ours was predicted for each of
these rows by a model that had not seen it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.paths import CACHE
from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.own_lengths.lengths_file import line_id, read_lengths
from benchmarks.own_lengths.measured_lines import folds, measured_lines
from benchmarks.prefill_head.head import Head, fit_head
from benchmarks.prefill_head.states import PrefillModel
from gateway.evaluation.arrivals import EvaluationRequests, RequestBuilder
from gateway.evaluation.corpus import read_lines
from gateway.evaluation.ours import ProductModel
from gateway.evaluation.sentences import SentenceEmbedder
from gateway.evaluation.vectors import TextVectors
from gateway.prediction.training.scorecard import kendall_tau, rms
from gateway.quantiles import Floats

FIGURE: Final = "prefill-head"
CHOICES: Final = (("middle",), ("two thirds",), ("last",), ("middle", "last"))
JUDGED: Final = CHOICES[-1]
FEW_ROWS: Final = (200, 1_000)
SEEDS: Final = 5  # draws of few rows
RESAMPLES: Final = 2_000
TIMED: Final = 1_000
MIN_GAIN: Final = 0.1
MAX_COST: Final = 0.01


@dataclass(frozen=True)
class Predicted:
    """Of n answers, each in its fold: ids, tokens, and the mean log length that ours predicts."""

    ids: list[str]
    fold: NDArray[np.intp]
    tokens: Floats
    location: Floats

    @property
    def residuals(self) -> Floats:
        """log(1 + tokens) less its prediction, (n,)."""
        return np.asarray(np.log1p(self.tokens) - self.location)


def run(data: Path, model: Path, threads: int) -> None:
    """Evaluate on the committed lengths; the texts are those of the folder."""
    report = Report(FIGURE, look=False)
    lines = measured_lines(read_lines(data), read_lengths())
    prefill = PrefillModel(model, threads)
    states = prefill.states(lines, report.say)
    step_s = prefill.step_s()
    embedder = SentenceEmbedder(threads, CACHE / "magnus", report.say)
    requests = RequestBuilder(None, TextVectors(), embedder, history=False).build(lines)
    report.say("fitting ours in five folds")
    ours = predicted(requests, threads)
    row_of = {line_id(line): row for row, line in enumerate(lines)}
    ordered = states[[row_of[name] for name in ours.ids]].astype(np.float64)
    by_layer = dict(zip(prefill.layers, ordered.transpose(1, 0, 2), strict=True))
    rows: list[Row] = []
    for layers in CHOICES:
        chosen = np.stack([by_layer[name] for name in layers], axis=1)
        for count in (None, *FEW_ROWS) if layers == JUDGED else (None,):
            report.say(f"{' + '.join(layers)}, {count or 'all'} rows")
            rows.append(head_row(layers, count, chosen, ours))
    judged = np.stack([by_layer[name] for name in JUDGED], axis=1)
    cost = cost_row(fit_head(judged, ours.location, ours.residuals), judged, step_s)
    gain = next(row["lower by"] for row in rows if row["layers"] == " + ".join(JUDGED))
    report.conclude([*rows, cost], targets(gain, cost["share of a step"]))


def predicted(requests: EvaluationRequests, threads: int) -> Predicted:
    """Every answer as ours predicts it from the other folds; within `max_tokens`."""
    tests, locations = [], []
    for train, test in folds(requests):
        forecast = ProductModel(threads).forecast(train, test).capped(test.max_tokens)
        tests.append(test)
        locations.append(forecast.location)
    return Predicted(
        ids=[line_id(line) for test in tests for line in test.lines],
        fold=np.repeat(np.arange(len(tests)), [len(test) for test in tests]),
        tokens=np.concatenate([test.tokens for test in tests]),
        location=np.concatenate(locations),
    )


def head_row(layers: Sequence[str], count: int | None, states: Floats, ours: Predicted) -> Row:
    """log-RMSE and τ with the head and without; with few rows the mean over the draws."""
    draws = [sharpened(states, ours, count, seed) for seed in range(SEEDS if count else 1)]
    logs = np.log1p(ours.tokens)
    errors = np.stack([logs - draw for draw in draws])
    gain, low, high = lower_by(errors, ours.residuals)
    return {
        "layers": " + ".join(layers),
        "rows": count or round(len(logs) * (1 - 1 / len(np.unique(ours.fold)))),
        "answers": len(logs),
        "log-RMSE": rms(ours.residuals),
        "with the head": rms(errors),
        "lower by": gain,
        "low": low,
        "high": high,
        "τ": kendall_tau(logs, ours.location),
        "τ with the head": float(np.mean([kendall_tau(logs, draw) for draw in draws])),
    }


def sharpened(states: Floats, ours: Predicted, count: int | None, seed: int) -> Floats:
    """Each answer's mean log length by a head of the other folds' rows, of `count` if given."""
    found = ours.location.copy()
    random = np.random.default_rng(seed)
    for fold in np.unique(ours.fold):
        train = random.permutation(np.flatnonzero(ours.fold != fold))[:count]
        test = np.flatnonzero(ours.fold == fold)
        head = fit_head(states[train], ours.location[train], ours.residuals[train])
        found[test] += head.correction(states[test], ours.location[test])
    return found


def lower_by(errors: Floats, before: Floats) -> tuple[float, float, float]:
    """By how much log-RMSE is lower, with the 95 % interval over answers.

    Errors of (draws, n) against those before, (n,). Percentile bootstrap (Efron 1979).
    """
    random = np.random.default_rng(1)
    squares = np.stack([(errors**2).mean(axis=0), before**2])
    drawn = [
        _gain(squares[:, random.integers(0, len(before), len(before))]) for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return _gain(squares), low, high


def cost_row(head: Head, states: Floats, step_s: float) -> Row:
    """What projecting one sequence's states costs, once, against a decode step of one sequence."""
    basis = [each.basis.astype(np.float32) for each in head.axes]
    one = states[0].astype(np.float32)
    began = time.perf_counter()
    for _ in range(TIMED):
        for layer, axes in enumerate(basis):
            (one[layer] @ axes).astype(np.float16)
    projection_s = (time.perf_counter() - began) / TIMED
    return {
        "numbers of a sequence": head.numbers,
        "projection, µs": projection_s * 1e6,
        "decode step of one sequence, ms": step_s * 1e3,
        "share of a step": projection_s / step_s,
    }


def targets(gain: float, cost: float) -> list[Target]:
    """What the head has to reach to be built."""
    return [
        target("log-RMSE lower by", gain, MIN_GAIN),
        target("cost over a step", cost, MAX_COST, "at most"),
    ]


def _gain(squares: Floats) -> float:
    after, before = np.sqrt(squares.mean(axis=1)).tolist()
    return float(1 - after / before)
