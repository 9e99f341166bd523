"""The rows of S2: gains next to the oracle's, policies relative to FCFS, overload settings."""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct

from benchmarks.harness.contenders import (
    FCFS,
    OUR_ORACLE,
    OURS,
    POOLS,
    group_by_key,
    mean_ratio,
    pool_of,
)
from benchmarks.harness.report import Row
from benchmarks.s2.cells import (
    COMPARED,
    ORACLE_MEAN_FIRST,
    OVERLOAD,
    SETTINGS,
    SHUFFLED,
    Cell,
    Regime,
)
from gateway.quantiles import MEDIAN, P90
from gateway.replay.cost.model import EngineModel
from gateway.replay.measure.confidence import ConfidenceInterval, confidence_interval
from gateway.replay.measure.metrics import Measures
from gateway.replay.workload.predictions import kendall_tau
from gateway.replay.workload.workload import Workload

MIN_ORACLE_GAIN: Final = 0.1  # below, the share of the oracle's gain is not computed
STORED_MEASURES: Final = ("mean_s", "p50_s", "p90_s", "p99_s", "ttft_mean_s", "ttft_p99_s",
                          "wait_mean_s", "tokens_s", "kv_use", "preempted", "recomputed",
                          "overdue", "extra_delay_s", "order_changes", "decision_us")  # fmt: skip


class Point(Struct, frozen=True):
    """A regime at a load, with its cells, one for each seed."""

    regime: Regime
    load: float
    cells: tuple[Cell, ...]

    @property
    def contender_names(self) -> list[str]:
        """The contenders measured."""
        return list(self.cells[0].measured)

    def of(self, contender: str, measure: str) -> ConfidenceInterval:
        """A measure over the seeds."""
        return confidence_interval(
            [float(getattr(cell.measured[contender], measure)) for cell in self.cells]
        )

    def relative(self, contender: str, measure: str) -> ConfidenceInterval:
        """A measure relative to FCFS, as a ratio for each seed."""
        return mean_ratio(
            [_over(c.measured[contender], c.measured[FCFS], measure) for c in self.cells]
        )

    def mean_relative(self, contender: str, measure: str) -> float | None:
        """The mean of `relative`; None if the contender was not measured."""
        return self.relative(contender, measure).mean if contender in self.contender_names else None

    def speed_up(self, contender: str) -> ConfidenceInterval:
        """FCFS's mean response time over the contender's."""
        return mean_ratio(
            [_over(c.measured[FCFS], c.measured[contender], "mean_s") for c in self.cells]
        )

    def gain(self, contender: str) -> ConfidenceInterval:
        """The reduction of the mean response time, relative to FCFS."""
        relative = self.relative(contender, "mean_s")
        return ConfidenceInterval(1 - relative.mean, 1 - relative.high, 1 - relative.low)

    @property
    def share(self) -> float | None:
        """Our gain over the oracle's; None if that is below `MIN_ORACLE_GAIN`."""
        oracle_gain = self.gain(OUR_ORACLE).mean
        return self.gain(OURS).mean / oracle_gain if oracle_gain >= MIN_ORACLE_GAIN else None


def points(cells: Iterable[Cell]) -> list[Point]:
    """Cells grouped by regime and load, in order."""
    return [Point(*place, tuple(group)) for place, group in group_by_key(cells).items()]


def source_row(name: str, whole: Workload, workload: Workload, engine: EngineModel) -> Row:
    """A source of requests, with the quality of its own predictions if it has any."""
    known = workload.has_predictions
    tokens = workload.generation_tokens
    quantiles = workload.quantiles
    return {
        "source": name,
        "requests": len(workload),
        "too long for the tight pool": 1 - len(workload) / len(whole),
        "prompt": float(workload.prompt_tokens.mean()),
        "answer": float(tokens.mean()),
        "longest answer": int(tokens.max()),
        "τ": kendall_tau(quantiles[:, MEDIAN].astype(float), tokens.astype(float))
        if known
        else None,
        "P90 covers": float(np.mean(tokens <= quantiles[:, P90])) if known else None,
        **{
            f"{pool} pool, tokens": _tokens(pool_of(size, engine, workload))
            for pool, size in POOLS.items()
        },
    }


def gain_row(point: Point) -> Row:
    """Our gain next to the oracle's; `policies` has all measures of all contenders."""
    ours, tail = point.gain(OURS), point.relative(OURS, "p99_s")
    return {
        **_where(point),
        "requests/s": float(np.mean([cell.rate_s for cell in point.cells])),
        "fcfs mean s": point.of(FCFS, "mean_s").mean,
        "oracle's gain": point.gain(OUR_ORACLE).mean,
        "gain": ours.mean,
        "low": ours.low,
        "high": ours.high,
        "gain/oracle's": point.share,
        "p99/fcfs": tail.mean,
        "p99 low": tail.low,
        "p99 high": tail.high,
        "shuffled mean/fcfs": point.mean_relative(SHUFFLED, "mean_s"),
        "shuffled p99/fcfs": point.mean_relative(SHUFFLED, "p99_s"),
        "policies": {contender: _measures(point, contender) for contender in point.contender_names},
    }


def policy_row(point: Point) -> Row:
    """The mean and p99 response of every policy, relative to FCFS."""
    others = [name for name in COMPARED if name != FCFS]
    relative = {
        f"{name} {shown}": point.mean_relative(name, measure)
        for measure, shown in (("mean_s", "mean"), ("p99_s", "p99"))
        for name in others
    }
    return {**_where(point), **relative}


def overload_rows(found: Iterable[Point]) -> Iterator[Row]:
    """The settings in overload; `MEAN_FIRST` with true lengths, too."""
    for point in found:
        if point.load == OVERLOAD:
            for name in (OURS, *SETTINGS, ORACLE_MEAN_FIRST):
                speed_up, tail = point.speed_up(name), point.relative(name, "p99_s")
                yield {
                    **_where(point),
                    "setting": "default" if name == OURS else name,
                    "fcfs mean/ours": speed_up.mean,
                    "mean low": speed_up.low,
                    "mean high": speed_up.high,
                    "p99/fcfs": tail.mean,
                    "low": tail.low,
                    "high": tail.high,
                    "longest delay s": point.of(name, "extra_delay_s").mean,
                }


def rows_of(found: list[Point]) -> list[Row]:
    """All rows, those with the same fields together."""
    return [*map(gain_row, found), *map(policy_row, found), *overload_rows(found)]


def _where(point: Point) -> Row:
    regime = point.regime
    return {
        "source": regime.source,
        "arrivals": regime.arrivals,
        "pool": regime.pool,
        "load": point.load,
    }


def _measures(point: Point, contender: str) -> Row:
    """A contender's measures with intervals, and its response by decile of true length."""
    deciles = zip(*(cell.measured[contender].deciles_s for cell in point.cells), strict=True)
    return {
        **{name: msgspec.to_builtins(point.of(contender, name)) for name in STORED_MEASURES},
        "deciles_s": [msgspec.to_builtins(confidence_interval(values)) for values in deciles],
    }


def _over(one: Measures, other: Measures, measure: str) -> float:
    return float(getattr(one, measure) / getattr(other, measure))


def _tokens(engine: EngineModel) -> int:
    return engine.shape.pages * engine.shape.page_tokens
