"""The rows of S1 live: throughput with a backlog, responses at a load, the engine's cost."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct

from benchmarks.harness.report import Row
from benchmarks.harness.retry import Measured
from benchmarks.live.gateway_process import ServedRequests
from benchmarks.s1.ladder import CONTINUOUS, FIXED, LIVE, NO_PREDICTOR, UNPREDICTED
from benchmarks.s1.live_models import LiveModel
from benchmarks.s1.live_work import EngineWork
from gateway.quantiles import MEDIAN, Floats
from gateway.replay.cost.calibration import CalibratedEngine
from gateway.replay.cost.model import LinearCost
from gateway.replay.measure.results import ReplayResults
from gateway.replay.workload.predictions import kendall_tau
from gateway.scheduling.policy import PolicyName

LADDER_SEED: Final = 11


class LiveRun(Struct, frozen=True, kw_only=True):
    """A run of one rung, and its replays: with the recorded lengths, and with the true ones.

    `load` is None with a backlog. `pace` is the total time of the engine's steps over their cost;
    steps of the replays take that much longer. `foreign` is the cores that other processes used.
    """

    rung: PolicyName
    load: float | None
    served: ServedRequests
    work: EngineWork
    pace: float
    replayed: ReplayResults
    oracle: ReplayResults | None
    foreign: float = 0.0

    def __str__(self) -> str:
        load = "backlog" if self.load is None else f"load {self.load:g}"
        return (
            f"{self.rung}, {load}: {self.tokens / self.span_s:.0f} tokens/s, "
            f"{self.requests_s:.2f} requests/s, mean response {self.response_s.mean():.2f} s, "
            f"valid share {self.valid_share:.2f}, batch {self.batch:.1f}, "
            f"steps took {self.pace:.2f} times their cost"
        )

    @property
    def response_s(self) -> Floats:
        """From arrival to the complete answer, (n,)."""
        return self.served.response_s

    @property
    def tokens(self) -> int:
        """Valid tokens: those of the answers."""
        return int(self.served.workload.generation_tokens.sum())

    @property
    def span_s(self) -> float:
        """From the first arrival to the last answer."""
        return float((self.served.workload.arrived_s + self.response_s).max())

    @property
    def requests_s(self) -> float:
        """Requests answered a second."""
        return len(self.response_s) / self.span_s

    @property
    def valid_share(self) -> float:
        """Valid tokens of all that were generated: a row in each step, and one by each prompt."""
        return self.tokens / (self.work.rows + len(self.response_s))

    @property
    def batch(self) -> float:
        """Mean requests of a lock-step batch; with continuous batching, rows of a step."""
        if self.rung in CONTINUOUS:
            return self.work.rows / self.work.steps
        return self.work.batched / self.work.batches

    def modelled_tokens_s(self, cost: LinearCost) -> float:
        """Valid tokens per second of the engine's steps at a cost."""
        return self.tokens / self.work.modelled_s(cost)

    def replayed_tokens_s(self, results: ReplayResults) -> float:
        """Valid tokens per second of a replay's steps, at the cost itself."""
        return self.tokens / (results.busy_s / self.pace)


def rows_of(
    model: LiveModel, engine: Measured[CalibratedEngine], predictor: str, runs: Sequence[LiveRun]
) -> list[Row]:
    """The rows of a model: of the runs with a backlog, of those at a load, of the engine."""
    return [
        *_backlog_rows(model, engine.outcome.fit.cost, predictor, runs),
        *_load_rows(model, runs),
        _engine_row(model, engine),
    ]


def _backlog_rows(
    model: LiveModel, cost: LinearCost, predictor: str, runs: Iterable[LiveRun]
) -> Iterator[Row]:
    found = [run for run in runs if run.load is None]
    fixed = next(run for run in found if run.rung == FIXED).modelled_tokens_s(cost)
    for run in found:
        value = run.modelled_tokens_s(cost)
        yield {
            "part": LIVE,
            "model": model.name,
            "rung": run.rung,
            "predictor": NO_PREDICTOR if run.rung in UNPREDICTED else predictor,
            "τ": None if run.rung in UNPREDICTED else _tau(run),
            "requests": len(run.response_s),
            "valid tokens": run.tokens,
            "modelled s": run.work.modelled_s(cost),
            "valid tokens/modelled s": value,
            "/fixed": value / fixed,
            "replay": run.replayed_tokens_s(run.replayed),
            "oracle in replay": run.replayed_tokens_s(run.oracle) if run.oracle else None,
            "measured s": run.span_s,
            "valid tokens/s": run.tokens / run.span_s,
            "requests/s": run.requests_s,
            "valid share": run.valid_share,
            "batch": run.batch,
            "rows a step": run.work.rows / run.work.steps,
            "halved": int(run.work.splits),
            "pace": run.pace,
            "foreign": run.foreign,
            "work": run.work._asdict(),  # left out of tables
        }


def _load_rows(model: LiveModel, runs: Iterable[LiveRun]) -> Iterator[Row]:
    found = [run for run in runs if run.load is not None]
    fixed = {run.load: run for run in found if run.rung == FIXED}
    for run in found:
        baseline = fixed[run.load]
        yield {
            "part": LIVE,
            "model": model.name,
            "load": run.load,
            "rung": run.rung,
            "requests": len(run.response_s),
            "arrivals/s": run.served.workload.rate_s,
            "τ": None if run.rung in UNPREDICTED else _tau(run),
            "mean s": float(run.response_s.mean()),
            "p95 s": float(np.quantile(run.response_s, 0.95)),
            "/fixed": float(run.response_s.mean() / baseline.response_s.mean()),
            "replay mean s": float(_replayed_s(run).mean()),
            "replay /fixed": float(_replayed_s(run).mean() / _replayed_s(baseline).mean()),
            "batch": run.batch,
            "halved": int(run.work.splits),
            "pace": run.pace,
            "foreign": run.foreign,
        }


def _engine_row(model: LiveModel, engine: Measured[CalibratedEngine]) -> Row:
    fit, shape = engine.outcome.fit, engine.outcome.shape
    return {
        "part": LIVE,
        "model": model.name,
        "KV tokens": shape.pages * shape.page_tokens,
        **{f"{name} µs": 1e6 * each for name, each in msgspec.structs.asdict(fit.cost).items()},
        "r2": fit.fitted.r2,
        "median_error": fit.fitted.median_error,
        "mix_error": fit.mix.median_error if fit.mix else None,
        "foreign": engine.load.foreign,
    }


def _tau(run: LiveRun) -> float:
    """Kendall's τ of the predicted medians."""
    workload = run.served.workload
    medians = workload.quantiles[:, MEDIAN].astype(np.float64)
    return kendall_tau(medians, workload.generation_tokens.astype(np.float64))


def _replayed_s(run: LiveRun) -> Floats:
    return run.replayed.finished_s - run.served.workload.arrived_s
