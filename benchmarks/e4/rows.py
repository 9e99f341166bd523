"""The rows and targets of E4."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks.e4.contenders import LLAMA, OURS, VLLM, Contender
from benchmarks.e4.measures import LoadTrace, agreement, p90, typical_ms
from benchmarks.engine.floor import Peak
from benchmarks.harness.ratios import Ratio, paired
from benchmarks.harness.report import Row, Target, target
from benchmarks.harness.retry import Measured

COMPARED_TOKENS: Final = 4  # number formats differ in rounding, so later tokens may differ
MANY: Final = 32  # clients, at which the targets hold
BOUNDS: Final = ((VLLM, 1.1), (LLAMA, 1.0))  # ours divided by, at least


@dataclass(frozen=True)
class Run:
    """One contender's run with some clients in one round."""

    contender: Contender
    clients: int
    round: int
    measured: Measured[LoadTrace]

    @property
    def trace(self) -> LoadTrace:
        """What happened."""
        return self.measured.outcome


def targets(runs: Iterable[Run]) -> list[Target]:
    """The targets with many clients; missed while a side is missing."""
    runs = list(runs)
    return [
        target(
            f"{MANY} clients: {OURS} / {engine}",
            ratio.median if (ratio := _ratio(runs, MANY, engine)) else None,
            bound,
        )
        for engine, bound in BOUNDS
    ]


def trial_rows(trials: Iterable[Run], kept: Iterable[Contender]) -> list[Row]:
    """The runs that chose each engine's number format."""
    chosen = set(kept)
    return [
        {
            "engine": run.contender.engine,
            "format": run.contender.format,
            "trial_tokens_s": run.trace.rate,
            "kept": "yes" if run.contender in chosen else "",
        }
        for run in trials
    ]


def load_rows(runs: list[Run]) -> list[Row]:
    """A row for each contender and number of clients: medians over the rounds."""
    groups: dict[tuple[int, Contender], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.clients, run.contender), []).append(run)
    return [
        _load_row(clients, contender, group, runs)
        for (clients, contender), group in sorted(groups.items(), key=_order)
    ]


def ratio_rows(runs: list[Run]) -> list[Row]:
    """Our rate divided by each other engine's, paired by round."""
    engines = sorted({run.contender.engine for run in runs} - {OURS})
    pairs = (
        (clients, engine) for clients in sorted({run.clients for run in runs}) for engine in engines
    )
    return [
        {
            "clients": clients,
            "ratio": f"{OURS} / {engine}",
            "runs": ratio.runs,
            "median": ratio.median,
            "low": ratio.low,
            "high": ratio.high,
        }
        for clients, engine in pairs
        if (ratio := _ratio(runs, clients, engine))
    ]


def step_rows(runs: list[Run]) -> list[Row]:
    """Our engine's steps, by its own counters: where their time goes."""
    rows = []
    for clients in sorted({run.clients for run in runs}):
        ours = [
            r.trace.counted for r in runs if r.contender.engine == OURS and r.clients == clients
        ]
        if ours:
            rows.append(
                {
                    "our clients": clients,
                    "step_ms": median(1000 * c["steps_s"] / c["steps"] for c in ours),
                    "rows_a_step": median(c["computed_tokens"] / c["steps"] for c in ours),
                    "outside_model": median(1 - c["forward_s"] / c["steps_s"] for c in ours),
                }
            )
    return rows


def bound_rows(runs: list[Run], weights: int, best: Peak) -> list[Row]:
    """With one client: the time to read all weights once, and its share of a token's time."""
    rows = []
    for contender in dict.fromkeys(run.contender for run in runs):
        alone = [run.trace for run in runs if run.contender == contender and run.clients == 1]
        if alone:
            bound_ms = 1000 * weights * contender.weight_bytes / best.bytes_s
            token_ms = median(typical_ms(trace.token_s) for trace in alone)
            rows.append(
                {
                    "one client": contender.name,
                    "weights_mb": weights * contender.weight_bytes / 1e6,
                    "read_ms": bound_ms,
                    "token_ms": token_ms,
                    "reading": bound_ms / token_ms,
                }
            )
    return rows


def _load_row(clients: int, contender: Contender, group: list[Run], runs: list[Run]) -> Row:
    traces = [run.trace for run in group]
    rates = [trace.rate for trace in traces]
    loads = [run.measured.load for run in group]
    return {
        "clients": clients,
        "engine": contender.name,
        "tokens_s": median(rates),
        "min": min(rates),
        "max": max(rates),
        "first_token_ms": median(typical_ms(trace.first_token_s) for trace in traces),
        "first_token_p90_ms": median(1000 * p90(trace.first_token_s) for trace in traces),
        "token_ms": median(typical_ms(trace.token_s) for trace in traces),
        "same_start_as_ours": _agreement(traces[0], clients, runs),
        "rounds": len(group),
        "rates": rates,
        "foreign": [load.foreign for load in loads],
        "most_foreign": max(load.foreign for load in loads),
    }


def _agreement(trace: LoadTrace, clients: int, runs: list[Run]) -> float | None:
    """Share of requests whose answer begins like ours: whether all run the same model."""
    ours = (r.trace for r in runs if r.contender.engine == OURS and r.clients == clients)
    first = next(ours, None)
    return agreement(trace, first, COMPARED_TOKENS) if first else None


def _ratio(runs: list[Run], clients: int, engine: str) -> Ratio | None:
    ours, theirs = (
        {
            run.round: run.trace.rate
            for run in runs
            if run.clients == clients and run.contender.engine == side and not run.contender.further
        }
        for side in (OURS, engine)
    )
    common = sorted(ours.keys() & theirs.keys())
    return paired([ours[n] for n in common], [theirs[n] for n in common])


def _order(group: tuple[tuple[int, Contender], list[Run]]) -> tuple[int, str]:
    (clients, contender), _ = group
    return clients, contender.name
