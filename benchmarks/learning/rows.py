"""Rows and targets of the learning benchmark: error, coverage and response times by request."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

import numpy as np
from msgspec import Struct

from benchmarks.harness.report import Row, Target, target
from benchmarks.learning.passes import Pass
from benchmarks.learning.traffic import MAX_TOKENS
from gateway.prediction.features.length_history import prior_statistics
from gateway.prediction.training.scorecard import ROUNDING, covered, evaluate
from gateway.quantiles import LEVELS, MEDIAN, P90, Bools, Floats

WINDOW: Final = 100  # requests
RECOVERY_REQUESTS: Final = 100  # after the change, until coverage is to be right again
NOMINAL_COVERAGE: Final = 0.9
COVERAGE_TOLERANCE: Final = 0.05
MIN_BELOW_HISTORY: Final = 0.1  # sampling noise alone leaves about 18 % (P1-own's noise floor)
MIN_BELOW_PRIOR: Final = 0.2
MAX_RESPONSE: Final = 0.9  # mean response over FCFS's, after learning


class Passes(Struct, frozen=True):
    """The same requests: without learning under FCFS, and with learning under our policy."""

    off: Pass
    on: Pass

    @property
    def changed(self) -> int:
        """The first request of the other mix."""
        return len(self.on) // 2

    @property
    def learned(self) -> int:
        """The first request that a trained version predicted; the number of requests without."""
        return min(self.on.activated, default=len(self.on))

    def phases(self) -> dict[str, slice]:
        """Before a version is active, with one, and after the change of the mix."""
        learned = min(self.learned, self.changed)
        return {
            "before learning": slice(0, learned),
            "after learning": slice(learned, self.changed),
            "after the change": slice(self.changed, len(self.on)),
        }


def binding(quantiles: Floats) -> Bools:
    """Whose P90 is below `max_tokens`: no answer can exceed a P90 that is at the limit."""
    return quantiles[:, P90] * (1 + ROUNDING) < MAX_TOKENS


def coverage(tokens: Floats, quantiles: Floats) -> float:
    """The share of answers within P90."""
    return float(covered(tokens, quantiles[:, P90]).mean())


def coverage_error(tokens: Floats, quantiles: Floats) -> float:
    """Coverage less that of right quantiles: 0.9, and 1 where P90 is at `max_tokens`."""
    expected = np.where(binding(quantiles), NOMINAL_COVERAGE, 1.0).mean()
    return coverage(tokens, quantiles) - float(expected)


def rows_of(passes: Passes, rate_s: float) -> list[Row]:
    """Rows of windows, of phases, of training runs, and of the two passes."""
    size = len(passes.on)
    edges = [*range(0, size, WINDOW), size]
    windows = [_errors(passes, slice(*edge)) for edge in pairwise(edges)]
    phases = [
        {"phase": name, **_errors(passes, rows), **_responses(passes, rows)}
        for name, rows in passes.phases().items()
        if rows.start < rows.stop
    ]
    return [*phases, *windows, *_run_rows(passes.on.runs), *_pass_rows(passes, rate_s)]


def targets(passes: Passes) -> list[Target]:
    """Error, coverage after the change, and response times after learning."""
    size = len(passes.on)
    known, late = slice(passes.learned, size), slice(passes.changed + RECOVERY_REQUESTS, size)
    off, on, prior = (_log_rmse(tokens, quantiles) for tokens, quantiles in _sides(passes, known))
    off_by = abs(coverage_error(passes.on.tokens[late], passes.on.quantiles[late]))
    response = _mean_ratio(passes, known)
    return [
        target(
            "log-RMSE below learning off (history alone)", _reduction(on, off), MIN_BELOW_HISTORY
        ),
        target("log-RMSE below nothing learned (prior)", _reduction(on, prior), MIN_BELOW_PRIOR),
        target(
            f"P90 coverage off from {RECOVERY_REQUESTS} requests after the change",
            off_by,
            COVERAGE_TOLERANCE,
            "at most",
        ),
        target("mean response over FCFS's, after learning", response, MAX_RESPONSE, "at most"),
    ]


def _sides(passes: Passes, rows: slice) -> Iterator[tuple[Floats, Floats]]:
    """Lengths and quantiles with learning off and on, and by the prior."""
    for each in (passes.off, passes.on):
        yield each.tokens[rows], each.quantiles[rows]
    tokens = passes.on.tokens[rows]
    levels = np.exp(prior_statistics(MAX_TOKENS).quantiles)
    yield tokens, np.broadcast_to(levels, (len(tokens), len(LEVELS)))


def _errors(passes: Passes, rows: slice) -> Row:
    row: Row = {"requests": f"{rows.start + 1} to {rows.stop}"}
    for name, (tokens, quantiles) in zip(("off", "on", "prior"), _sides(passes, rows), strict=True):
        card = evaluate(tokens, quantiles)
        row[f"log-RMSE {name}"] = card.log_rmse_median
        row[f"pinball {name}"] = card.pinball
        row[f"median error {name}"] = float(np.median(np.abs(tokens - quantiles[:, MEDIAN])))
        if name != "prior":
            row[f"P90 covers {name}"] = coverage(tokens, quantiles)
            row[f"P90 below limit {name}"] = float(binding(quantiles).mean())
            row[f"τ {name}"] = card.tau
    return row


def _responses(passes: Passes, rows: slice) -> Row:
    return {
        "FCFS mean s": float(passes.off.response_s[rows].mean()),
        "ours mean s": float(passes.on.response_s[rows].mean()),
        "ours/FCFS": _mean_ratio(passes, rows),
        "ordered by policy": float(passes.on.by_policy[rows].mean()),
    }


def _mean_ratio(passes: Passes, rows: slice) -> float | None:
    if not len(passes.on.response_s[rows]):
        return None
    return float(passes.on.response_s[rows].mean() / passes.off.response_s[rows].mean())


def _log_rmse(tokens: Floats, quantiles: Floats) -> float | None:
    return evaluate(tokens, quantiles).log_rmse_median if len(tokens) else None


def _reduction(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else 1 - ours / theirs


def _run_rows(runs: list[dict[str, Any]]) -> Iterator[Row]:
    for run in runs:
        samples = run["samples"] or {}
        yield {
            "training run": run["trigger"],
            "state": run["state"],
            "rows": run["rows_read"],
            "complete": samples.get("complete"),
            "seconds": run["seconds"],
            "activated": run["activated"],
            "pinball new": run["pinball"].get("new"),
            "active": run["pinball"].get("active"),
            "line": run["pinball"].get("line"),
            "served": run["pinball"].get("served"),
        }


def _pass_rows(passes: Passes, rate_s: float) -> Iterator[Row]:
    for each in (passes.off, passes.on):
        yield {
            "pass": str(each.name),
            "requests": len(each),
            "requests/s": rate_s,
            "mean tokens": float(each.tokens.mean()),
            "cut off": float((each.tokens >= MAX_TOKENS).mean()),
            "same length in both": float((passes.on.tokens == passes.off.tokens).mean()),
            "predicted by a version": each.sources.count("model") / len(each),
            "mean response s": float(each.response_s.mean()),
            "foreign": each.load.foreign,
        }
