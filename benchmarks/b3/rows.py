"""The tables and the target of B3."""

from collections.abc import Sequence
from statistics import median
from typing import Final

import numpy as np

from benchmarks.b3.passes import Pass
from benchmarks.b3.percentiles import percentile_ratio
from benchmarks.harness.report import Row, Target, target
from benchmarks.harness.retry import Measured
from gateway.quantiles import Floats

ALONE: Final = "requests alone"
SHIPPED: Final = "both, as shipped"
UNPROTECTED: Final = "both, no limit"
JOB: Final = "job alone"
MOST: Final = 1.1  # p99 of the first token, with a job over without

Passes = dict[str, list[Measured[Pass]]]


def rows_of(passes: Passes, rate_s: float) -> list[Row]:
    """A row for each kind of pass, and for each ratio to the requests alone."""
    job_s = _median_rate(passes.get(JOB, []))
    rows = [_row(kind, found, rate_s, job_s) for kind, found in passes.items()]
    ratios = [
        _ratio_row(passes, kind, name, level)
        for kind in (SHIPPED, UNPROTECTED)
        for name in TIMES
        for level in (0.5, 0.99)
    ]
    return [*rows, *(row for row in ratios if row)]


def targets(passes: Passes) -> list[Target]:
    """How much later the slowest first tokens come."""
    found = percentile_ratio(
        _times(passes, SHIPPED, "first token"), _times(passes, ALONE, "first token"), 0.99
    )
    value = None if found is None else found.median
    return [target("p99 first token, with a job / without", value, MOST, "at most")]


def first_token_ms(done: Pass) -> Floats:
    """Milliseconds to the first token, (n,)."""
    return 1e3 * np.array([answer.first_s for answer in done.answers])


def token_ms(done: Pass) -> Floats:
    """Milliseconds a token after the first, (n,); answers of one token are left out."""
    return 1e3 * np.array([answer.token_s for answer in done.answers if answer.token_s is not None])


TIMES: Final = {"first token": first_token_ms, "token": token_ms}


def _row(kind: str, found: Sequence[Measured[Pass]], rate_s: float, job_s: float | None) -> Row:
    done = [measured.outcome for measured in found]
    tokens_s = median(one.job_tokens_s for one in done) if kind != ALONE else None
    times = {name: np.concatenate([read(one) for one in done]) for name, read in TIMES.items()}
    steps = sum(one.counted["steps"] for one in done)
    return {
        "pass": kind,
        "requests_s": rate_s if kind != JOB else None,
        "first_p50_ms": _quantile(times["first token"], 0.5),
        "first_p99_ms": _quantile(times["first token"], 0.99),
        "token_p50_ms": _quantile(times["token"], 0.5),
        "token_p99_ms": _quantile(times["token"], 0.99),
        "job_tokens_s": tokens_s,
        "makespan/alone": job_s / tokens_s if job_s and tokens_s else None,
        "step_ms": 1e3 * sum(one.counted["steps_s"] for one in done) / steps,
        "preempted": sum(one.counted["preemptions"] for one in done),
        "rounds": len(done),
        "foreign": max(measured.load.foreign for measured in found),
    }


def _ratio_row(passes: Passes, kind: str, name: str, level: float) -> Row | None:
    found = percentile_ratio(_times(passes, kind, name), _times(passes, ALONE, name), level)
    if found is None:
        return None
    return {
        "ratio": f"{kind} / {ALONE}",
        "of": f"{name} p{100 * level:.0f}",
        "value": found.median,
        "low": found.low,
        "high": found.high,
        "lowest_round": min(found.runs),
        "highest_round": max(found.runs),
    }


def _times(passes: Passes, kind: str, name: str) -> list[Floats]:
    return [TIMES[name](measured.outcome) for measured in passes.get(kind, [])]


def _median_rate(found: Sequence[Measured[Pass]]) -> float | None:
    return median(one.outcome.job_tokens_s for one in found) if found else None


def _quantile(values: Floats, level: float) -> float | None:
    return float(np.quantile(values, level)) if len(values) else None
