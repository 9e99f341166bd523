"""The rows and targets of S2 live: our response times over FCFS's, live and in replay."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import numpy as np
from msgspec import Struct

from benchmarks.harness.contenders import FCFS, OURS
from benchmarks.harness.report import Row, Target, target
from benchmarks.harness.retry import Measured
from benchmarks.live.passes import PolicyRun
from benchmarks.live.run import MAX_MEAN_ERROR, MAX_P99_ERROR
from gateway.quantiles import MEDIAN, P90, Floats
from gateway.replay.workload.predictions import kendall_tau
from gateway.scheduling.policy import PolicyName

STATISTICS: Final[dict[str, Callable[[Floats], float]]] = {
    "mean": lambda response_s: float(response_s.mean()),
    "p99": lambda response_s: float(np.quantile(response_s, 0.99)),
}
MAX_RATIO_ERROR: Final = {"mean": MAX_MEAN_ERROR, "p99": MAX_P99_ERROR}  # those of S0


class LoadRun(Struct, frozen=True):
    """The same requests under FCFS and under our policy, at a load."""

    load: float
    rate_s: float
    passes: dict[PolicyName, Measured[PolicyRun]]

    def policy_run(self, policy: PolicyName) -> PolicyRun:
        """A policy's pass."""
        return self.passes[policy].outcome

    def live(self, statistic: str) -> float:
        """A statistic of our response times, over FCFS's."""
        of = STATISTICS[statistic]
        ours, fcfs = self.policy_run(OURS), self.policy_run(FCFS)
        return of(ours.served.response_s) / of(fcfs.served.response_s)

    def replayed(self, statistic: str) -> float:
        """The same in replay."""
        of = STATISTICS[statistic]
        return of(self.policy_run(OURS).replayed_s) / of(self.policy_run(FCFS).replayed_s)

    def off(self, statistic: str) -> float:
        """By how much the replayed ratio differs from the live one, relative to that."""
        return self.replayed(statistic) / self.live(statistic) - 1


def rows_of(found: Iterable[LoadRun]) -> list[Row]:
    """The ratios at each load, then each pass."""
    loads = list(found)
    return [*map(_ratio_row, loads), *(row for each in loads for row in _pass_rows(each))]


def targets(rows: Iterable[Row], loads: Iterable[float]) -> Iterator[Target]:
    """At each load, the replayed ratio is off the live one by at most S0's bounds."""
    found = {row["load"]: row for row in rows if "mean off" in row}
    for load in loads:
        for name, bound in MAX_RATIO_ERROR.items():
            off = found.get(load, {}).get(f"{name} off")
            yield target(
                f"load {load:g}: {name} over FCFS's, replay off live",
                None if off is None else abs(off),
                bound,
                "at most",
            )


def _ratio_row(at: LoadRun) -> Row:
    return {
        "load": at.load,
        "requests/s": at.rate_s,
        **{
            f"{name} {shown}": value(name)
            for name in STATISTICS
            for shown, value in (
                ("over fcfs, live", at.live),
                ("over fcfs, replay", at.replayed),
                ("off", at.off),
            )
        },
    }


def _pass_rows(at: LoadRun) -> Iterator[Row]:
    for policy, measured in at.passes.items():
        found = measured.outcome
        served, workload = found.served, found.served.workload
        tokens, quantiles = workload.generation_tokens, workload.quantiles
        yield {
            "load": at.load,
            "policy": policy,
            "requests": len(served.response_s),
            **{f"live {name} s": of(served.response_s) for name, of in STATISTICS.items()},
            **{f"replay {name} s": of(found.replayed_s) for name, of in STATISTICS.items()},
            "live queued s": float(served.queued_s.mean()),
            "preempted": served.preemptions,
            "replay preempted": int(found.replayed.preemptions.sum()),
            "τ": kendall_tau(quantiles[:, MEDIAN].astype(float), tokens.astype(float)),
            "P90 covers": float(np.mean(tokens <= quantiles[:, P90])),
            "pace": found.pace,
            "foreign": measured.load.foreign,
            "live": served.response_s.round(4).tolist(),
            "replay": found.replayed_s.round(4).tolist(),
        }
