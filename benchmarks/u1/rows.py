"""The rows and targets of U1: responses through the gateway over those straight from vLLM."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import numpy as np
from msgspec import Struct

from benchmarks.harness.contenders import FCFS, OUR_ORACLE, OURS
from benchmarks.harness.report import Row, Target, target
from benchmarks.u1.passes import SidePass
from gateway.quantiles import MEDIAN, P90, Floats
from gateway.replay.workload.predictions import kendall_tau
from gateway.replay.workload.workload import Workload

DIRECT: Final = "vLLM"
MIN_GAIN: Final = 0.1  # of the oracle in replay: below, there is nothing to share
MIN_GAIN_SHARE: Final = 0.6
MAX_MEAN_ELSEWHERE: Final = 1.01
MAX_P99: Final = 1.05
P99_SLACK: Final = 0.03
MIN_TOKENS: Final = 0.97
STATISTICS: Final[dict[str, Callable[[Floats], float]]] = {
    "mean": lambda response_s: float(response_s.mean()),
    "p99": lambda response_s: float(np.quantile(response_s, 0.99)),
}


class Cell(Struct, frozen=True):
    """The same requests at a load, straight to vLLM and through us under two policies.

    `workload` are those that went through us under ours, as history has them; `replayed_s` are the
    response times of its replays.
    """

    running: int
    load: float
    rate_s: float
    sides: dict[str, SidePass]
    workload: Workload
    replayed_s: dict[str, Floats]

    def live(self, side: str, statistic: str) -> float:
        """A statistic of a side's responses, over those straight from vLLM."""
        of = STATISTICS[statistic]
        return of(self.sides[side].response_s) / of(self.sides[DIRECT].response_s)

    def replayed(self, side: str, statistic: str) -> float:
        """The same in replay, over FCFS."""
        of = STATISTICS[statistic]
        return of(self.replayed_s[side]) / of(self.replayed_s[FCFS])

    @property
    def gain_share(self) -> float | None:
        """The part of the oracle's gain in the mean; None where that has none to speak of."""
        gain = 1 - self.replayed(OUR_ORACLE, "mean")
        return (1 - self.live(OURS, "mean")) / gain if gain >= MIN_GAIN else None


def part_of(running: int) -> str:
    """The part of the figure with this number of sequences at once, as rows and targets name it."""
    return f"{running} sequences"


def rows_of(cells: Iterable[Cell]) -> list[Row]:
    """A row for each cell."""
    return [_row(cell) for cell in cells]


def _row(cell: Cell) -> Row:
    tokens, quantiles = cell.workload.generation_tokens, cell.workload.quantiles
    row: Row = {
        "part": part_of(cell.running),
        "load": cell.load,
        "requests": len(tokens),
        "requests/s": cell.rate_s,
        "gain share": cell.gain_share,
    }
    for name in STATISTICS:
        row[f"{name} {DIRECT} s"] = STATISTICS[name](cell.sides[DIRECT].response_s)
        for side in (FCFS, OURS):
            row[f"{name} {side}"] = cell.live(side, name)
        for side in (OURS, OUR_ORACLE):
            row[f"{name} {side} replayed"] = cell.replayed(side, name)
    for side, done in cell.sides.items():
        row[f"tokens/s {side}"] = done.tokens_s
        row[f"queue {side}"] = float(done.depths.max())
        row[f"foreign {side}"] = done.foreign
        row[side] = done.response_s.round(3).tolist()
    row["τ"] = kendall_tau(quantiles[:, MEDIAN].astype(float), tokens.astype(float))
    row["P90 covers"] = float(np.mean(tokens <= quantiles[:, P90]))
    return row


def targets(cells: Iterable[Cell], wanted: Iterable[tuple[int, float]]) -> Iterator[Target]:
    """The targets of each cell; one that was not measured is missed."""
    found = {(cell.running, cell.load): cell for cell in cells}
    for running, load in wanted:
        cell = found.get((running, load))
        name = f"{part_of(running)}, load {load:g}"
        if cell is not None and cell.gain_share is None:
            mean = cell.live(OURS, "mean")
            yield target(f"{name}: mean over vLLM's", mean, MAX_MEAN_ELSEWHERE, "at most")
        else:
            share = None if cell is None else cell.gain_share
            yield target(f"{name}: part of oracle-lmaas' gain", share, MIN_GAIN_SHARE)
        p99 = None if cell is None else cell.live(OURS, "p99")
        oracle = 0.0 if cell is None else cell.replayed(OUR_ORACLE, "p99")
        bound = max(MAX_P99, oracle + P99_SLACK)
        yield target(f"{name}: p99 over vLLM's", p99, bound, "at most")
        rate = None
        if cell is not None:
            rate = cell.sides[OURS].tokens_s / cell.sides[DIRECT].tokens_s
        yield target(f"{name}: tokens/s over vLLM's", rate, MIN_TOKENS)
