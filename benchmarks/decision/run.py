"""decision: the cost of a scheduling decision, by the numbers of queued and running requests."""

from collections.abc import Iterable, Sequence
from functools import partial
from math import log
from statistics import mean
from typing import Final

import numpy as np

from benchmarks.decision.load import DecisionLoad, TimedTurn
from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.harness.retry import Measured, quietest
from gateway.scheduling.policy import PolicyName

POLICIES: Final[tuple[PolicyName, ...]] = ("lmaas", "hrrn", "fcfs")
WAITING: Final = (100, 1_000, 10_000, 100_000)
RUNNING: Final = (8, 64, 256)
TURNS: Final = 2_000
BOUND_WAITING: Final = 10_000  # queue length that the bound applies to
MAX_DECISION_US: Final = 100.0
MAX_GROWTH: Final = 1.2 * log(WAITING[-1]) / log(WAITING[0])


def run(policies: Sequence[PolicyName], max_waiting: int, turns: int) -> None:
    """Measure each policy with up to `max_waiting` queued requests; write the result after each."""
    partial_run = tuple(policies) != POLICIES or max_waiting != WAITING[-1] or turns != TURNS
    report = Report("decision", partial_run)
    rows: list[Row] = []
    for policy in policies:
        for running in RUNNING:
            for waiting in (count for count in WAITING if count <= max_waiting):
                cell = f"{policy}, {waiting:,} waiting, {running} running"
                measured = quietest(
                    partial(_measured, policy, waiting, running, turns),
                    partial(_report_progress, report, cell),
                )
                rows.append(row_of(policy, waiting, running, measured))
        report.write(rows, targets(rows))
    report.conclude([*rows, *growth_of(rows)], targets(rows))


def targets(rows: Iterable[Row]) -> list[Target]:
    """The verdicts on each policy, at its worst number of running requests."""
    found = list(rows)
    verdicts = []
    for policy in POLICIES:
        own_rows = [row for row in found if row["policy"] == policy]
        bound_rows = [row for row in own_rows if row["waiting"] == BOUND_WAITING]
        for statistic in ("p50", "mean"):
            worst = max((row[f"decision_{statistic}_us"] for row in bound_rows), default=None)
            name = f"{policy}: µs a decision with {BOUND_WAITING:,} waiting, {statistic}"
            verdicts.append(target(name, worst, MAX_DECISION_US, "at most"))
        growths = [row["mean_growth"] for row in growth_of(found) if row["policy"] == policy]
        name = f"{policy}: mean with {WAITING[-1]:,} waiting over that with {WAITING[0]}"
        verdicts.append(target(name, max(growths, default=None), MAX_GROWTH, "at most"))
    return verdicts


def growth_of(rows: Iterable[Row]) -> list[Row]:
    """The cost of a decision with the longest queue, relative to that with the shortest."""
    found = {(row["policy"], row["for_running"], row["waiting"]): row for row in rows}
    return [
        {
            "policy": policy,
            "for_running": running,
            "p50_growth": _ratio(found, policy, running, "decision_p50_us"),
            "mean_growth": _ratio(found, policy, running, "decision_mean_us"),
        }
        for policy in POLICIES
        for running in RUNNING
        if {(policy, running, WAITING[0]), (policy, running, WAITING[-1])} <= found.keys()
    ]


def row_of(policy: str, waiting: int, running: int, measured: Measured[list[TimedTurn]]) -> Row:
    """Microseconds per decision, and per part of a turn."""
    turns = measured.outcome
    decisions_us = 1e6 * np.array([each for turn in turns for each in turn.decisions_s])
    arrivals_us = 1e6 * np.array([turn.arrive_s for turn in turns])
    return {
        "policy": policy,
        "waiting": waiting,
        "for_running": running,
        "running": mean(turn.running for turn in turns),
        "decision_p50_us": float(np.median(decisions_us)),
        "decision_mean_us": float(decisions_us.mean()),
        "decision_p99_us": float(np.quantile(decisions_us, 0.99)),
        "decision_max_us": float(decisions_us.max()),
        "arrive_p50_us": float(np.median(arrivals_us)),
        "arrive_p99_us": float(np.quantile(arrivals_us, 0.99)),
        "refresh_mean_us": 1e6 * mean(turn.refresh_s for turn in turns),
        "ended_mean_us": 1e6 * mean(turn.ended_s for turn in turns),
        "decisions_a_turn": len(decisions_us) / len(turns),
        "turn_mean_us": float(decisions_us.sum()) / len(turns),
        "foreign": measured.load.foreign,
    }


def _measured(policy: PolicyName, waiting: int, running: int, turns: int) -> list[TimedTurn]:
    load = DecisionLoad(policy, waiting, running)
    load.settle()
    return load.turns(turns)


def _ratio(found: dict[tuple[str, int, int], Row], policy: str, running: int, name: str) -> float:
    longest, shortest = (found[policy, running, count][name] for count in (WAITING[-1], WAITING[0]))
    return float(longest / shortest)


def _report_progress(report: Report, name: str, measured: Measured[list[TimedTurn]]) -> None:
    row = row_of("", 0, 0, measured)
    report.say(
        f"{name}: {row['decision_p50_us']:.0f} µs p50, {row['decision_mean_us']:.0f} mean, "
        f"{row['decision_p99_us']:.0f} p99; a turn {row['turn_mean_us']:.0f}, of which refresh "
        f"{row['refresh_mean_us']:.0f}; {row['running']:.0f} ran; {measured}"
    )
