"""The rows of S2: gains beside the oracle's, policies beside FCFS, two settings in overload."""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct

from benchmarks.harness.contenders import FCFS, OUR_ORACLE, OURS, POOLS, grouped, pool_of, ratio
from benchmarks.harness.report import Row
from benchmarks.s2.cells import COMPARED, OVERLOAD, SETTINGS, SHUFFLED, Cell, Regime
from gateway.quantiles import MEDIAN, P90
from gateway.replay.cost.model import EngineModel
from gateway.replay.measure.confidence import ConfidenceInterval, estimate
from gateway.replay.measure.metrics import Measures
from gateway.replay.workload.predictions import kendall_tau
from gateway.replay.workload.workload import Workload

WORTHWHILE: Final = 0.1  # gain of the oracle; below, there is nothing to gain
SHOWN: Final = ("mean_s", "p50_s", "p90_s", "p99_s", "ttft_mean_s", "ttft_p99_s", "wait_mean_s",
                "tokens_s", "kv_use", "preempted", "recomputed", "overdue", "extra_delay_s",
                "order_changes", "decision_us")  # fmt: skip


class Point(Struct, frozen=True):
    """A regime at a load: its cells, one a seed."""

    regime: Regime
    load: float
    cells: tuple[Cell, ...]

    @property
    def sides(self) -> list[str]:
        """Who was compared."""
        return list(self.cells[0].measured)

    def of(self, side: str, measure: str) -> ConfidenceInterval:
        """A measure over the seeds."""
        return estimate([float(getattr(cell.measured[side], measure)) for cell in self.cells])

    def over(self, side: str, measure: str) -> ConfidenceInterval:
        """A measure in parts of FCFS's, seed by seed."""
        return ratio([_over(c.measured[side], c.measured[FCFS], measure) for c in self.cells])

    def mean_over(self, side: str, measure: str) -> float | None:
        """The same without its interval; None where the side is not told."""
        return self.over(side, measure).mean if side in self.sides else None

    def speed_up(self, side: str) -> ConfidenceInterval:
        """FCFS's mean response over this side's."""
        return ratio([_over(c.measured[FCFS], c.measured[side], "mean_s") for c in self.cells])

    def gain(self, side: str) -> ConfidenceInterval:
        """By which part of FCFS's mean response this side's is shorter."""
        over = self.over(side, "mean_s")
        return ConfidenceInterval(1 - over.mean, 1 - over.high, 1 - over.low)

    @property
    def share(self) -> float | None:
        """Our part of the oracle's gain; None where there is nothing to gain."""
        most = self.gain(OUR_ORACLE).mean
        return self.gain(OURS).mean / most if most >= WORTHWHILE else None


def points(cells: Iterable[Cell]) -> list[Point]:
    """Cells by regime and load, in their order."""
    return [Point(*place, tuple(group)) for place, group in grouped(cells).items()]


def source_row(name: str, whole: Workload, workload: Workload, engine: EngineModel) -> Row:
    """What is drawn from, and how well its lengths are predicted where predictions are its own."""
    known = workload.predicted
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
    """Our gain beside the oracle's; all policies' measures stay in the JSON."""
    ours, tail = point.gain(OURS), point.over(OURS, "p99_s")
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
        "shuffled mean/fcfs": point.mean_over(SHUFFLED, "mean_s"),
        "shuffled p99/fcfs": point.mean_over(SHUFFLED, "p99_s"),
        "policies": {side: _measures(point, side) for side in point.sides},
    }


def policy_row(point: Point) -> Row:
    """Mean response of every policy over FCFS's, and p99 over its p99."""
    others = [name for name in COMPARED if name != FCFS]
    over = {
        f"{name} {shown}": point.mean_over(name, measure)
        for measure, shown in (("mean_s", "mean"), ("p99_s", "p99"))
        for name in others
    }
    return {**_where(point), **over}


def overload_rows(found: Iterable[Point]) -> Iterator[Row]:
    """The settings in overload: the default, the tail kept short, the mean first."""
    for point in found:
        if point.load == OVERLOAD:
            for name in (OURS, *SETTINGS):
                speed_up, tail = point.speed_up(name), point.over(name, "p99_s")
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
    """All rows, those that look alike together."""
    return [*map(gain_row, found), *map(policy_row, found), *overload_rows(found)]


def _where(point: Point) -> Row:
    regime = point.regime
    return {
        "source": regime.source,
        "arrivals": regime.arrivals,
        "pool": regime.pool,
        "load": point.load,
    }


def _measures(point: Point, side: str) -> Row:
    """One policy's measures with their intervals, and its response by decile of true length."""
    deciles = zip(*(cell.measured[side].deciles_s for cell in point.cells), strict=True)
    return {
        **{name: msgspec.to_builtins(point.of(side, name)) for name in SHOWN},
        "deciles_s": [msgspec.to_builtins(estimate(values)) for values in deciles],
    }


def _over(one: Measures, other: Measures, measure: str) -> float:
    return float(getattr(one, measure) / getattr(other, measure))


def _tokens(engine: EngineModel) -> int:
    return engine.shape.pages * engine.shape.page_tokens
