"""decision: what a scheduling decision costs, by how many requests wait and how many run."""

from collections.abc import Iterable, Sequence
from functools import partial
from math import log
from statistics import mean
from typing import Final

import numpy as np

from benchmarks.decision.load import Backlog, Turn
from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.harness.retry import Measured, quietest
from gateway.scheduling.policy import PolicyName

POLICIES: Final[tuple[PolicyName, ...]] = ("lmaas", "hrrn", "fcfs")
WAITING: Final = (100, 1_000, 10_000, 100_000)
RUNNING: Final = (8, 64, 256)
TURNS: Final = 2_000
HELD: Final = 10_000  # waiting, where the bound holds
BOUND_US: Final = 100.0
GROWTH: Final = 1.2 * log(WAITING[-1]) / log(WAITING[0])


def run(policies: Sequence[PolicyName], most: int, turns: int) -> None:
    """Measure every policy with up to `most` waiting; the result is written after each."""
    look = tuple(policies) != POLICIES or most != WAITING[-1] or turns != TURNS
    report = Report("decision", look)
    rows: list[Row] = []
    for policy in policies:
        for running in RUNNING:
            for waiting in (count for count in WAITING if count <= most):
                measured = quietest(
                    partial(_measured, policy, waiting, running, turns),
                    partial(_told, report, f"{policy}, {waiting:,} waiting, {running} running"),
                )
                rows.append(row_of(policy, waiting, running, measured))
        report.write(rows, targets(rows))
    report.conclude([*rows, *growth_of(rows)], targets(rows))


def targets(rows: Iterable[Row]) -> list[Target]:
    """Each policy's verdicts, at its worst over how many run."""
    found = list(rows)
    verdicts = []
    for policy in POLICIES:
        held = [row for row in found if (row["policy"], row["waiting"]) == (policy, HELD)]
        for name in ("p50", "mean"):
            worst = max((row[f"decision_{name}_us"] for row in held), default=None)
            said = f"{policy}: µs a decision with {HELD:,} waiting, {name}"
            verdicts.append(target(said, worst, BOUND_US, "at most"))
        grown = [row["mean_growth"] for row in growth_of(found) if row["policy"] == policy]
        said = f"{policy}: mean with {WAITING[-1]:,} waiting over that with {WAITING[0]}"
        verdicts.append(target(said, max(grown, default=None), GROWTH, "at most"))
    return verdicts


def growth_of(rows: Iterable[Row]) -> list[Row]:
    """By what a decision costs more with the most waiting than with the fewest."""
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


def row_of(policy: str, waiting: int, running: int, measured: Measured[list[Turn]]) -> Row:
    """Microseconds of a decision, and of the parts of a turn."""
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


def _measured(policy: PolicyName, waiting: int, running: int, turns: int) -> list[Turn]:
    backlog = Backlog(policy, waiting, running)
    backlog.settle()
    return backlog.turns(turns)


def _ratio(found: dict[tuple[str, int, int], Row], policy: str, running: int, name: str) -> float:
    most, least = (found[policy, running, count][name] for count in (WAITING[-1], WAITING[0]))
    return float(most / least)


def _told(report: Report, name: str, measured: Measured[list[Turn]]) -> None:
    row = row_of("", 0, 0, measured)
    report.say(
        f"{name}: {row['decision_p50_us']:.0f} µs p50, {row['decision_mean_us']:.0f} mean, "
        f"{row['decision_p99_us']:.0f} p99; a turn {row['turn_mean_us']:.0f}, of which refresh "
        f"{row['refresh_mean_us']:.0f}; {row['running']:.0f} ran; {measured}"
    )
