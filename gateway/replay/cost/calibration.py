"""What the steps of a real engine cost, fitted to the times that its steps took."""

from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple, Protocol

import numpy as np
from msgspec import Struct
from scipy.optimize import nnls

from gateway.errors import LmaasError
from gateway.quantiles import Floats
from gateway.replay.cost.model import EngineModel, LinearCost
from gateway.replay.cost.trials import MIX

HICCUP: Final = 3.0  # times the median of its like: the machine's doing, not the engine's
FEWEST: Final = 40  # steps
TERMS: Final = ("step_s", "prompt_token_s", "prompt_read_s", "sequence_s", "kv_token_s")
COUNTED: Final = ("prompt tokens", "reads of prompts", "sequences that decode", "KV tokens")


class TimedStep(Protocol):
    """A step of a trial: what it computed, and how long it took."""

    @property
    def trial(self) -> str:
        """The trial's name."""

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens computed."""

    @property
    def prefill_reads(self) -> float:
        """KV tokens that these read, each those before it."""

    @property
    def sequences(self) -> int:
        """Sequences that decoded."""

    @property
    def kv_tokens(self) -> int:
        """KV tokens that the sequences read."""

    @property
    def took_s(self) -> float:
        """Seconds from the end of the step before."""

    @property
    def gap_s(self) -> float | None:
        """Seconds since the step before was seen; None for the first after a rest."""


class Shape(Struct, frozen=True):
    """Like steps of a trial, and what the cost says of them: means, times in seconds."""

    trial: str
    prefill_tokens: float
    prefill_reads: float
    sequences: float
    kv_tokens: float
    steps: int
    took_s: float
    told_s: float

    @property
    def error(self) -> float:
        """How far the told time is from the measured one, in parts of it."""
        return abs(self.told_s / self.took_s - 1)


class Quality(Struct, frozen=True):
    """How well a cost tells the times of steps. Errors are absolute, in parts of the measured time.

    `bias` is the sum of the told times over that of the measured ones, less 1.
    """

    steps: int
    r2: float
    median_error: float
    bias: float


class Fit(Struct, frozen=True):
    """A cost, how well it tells the steps it was fitted to, and those of the mix.

    `seen` is the time between steps as a gateway sees them, in parts of the engine's own.
    `hiccups` are steps left out because they took far longer than their like.
    """

    cost: LinearCost
    fitted: Quality
    mix: Quality | None
    worst: Shape
    seen: float
    hiccups: int


class CalibratedEngine(EngineModel, frozen=True, kw_only=True):
    """An engine as measured: what a replay reads, and how well that tells its steps."""

    model: str
    device: str
    dtype: str
    trials: int
    fit: Fit


class _Cell(NamedTuple):
    """Like steps of a trial."""

    trial: str
    shape: Floats  # means, as `COUNTED`
    took_s: Floats


def fit(steps: Sequence[TimedStep]) -> Fit:
    """The cost with the least relative errors, no part of it below 0.

    Steps that are alike count with their mean time: it is means that add up in a replay.
    LmaasError where the steps cannot tell the parts of the cost apart.
    """
    busy = [step for step in steps if step.gap_s is not None]
    cells = _cells([step for step in busy if step.trial != MIX])
    mixed = _cells([step for step in busy if step.trial == MIX])
    _check(cells)
    cost = _cost(cells)
    return Fit(
        cost=cost,
        fitted=_quality(cost, cells),
        mix=_quality(cost, mixed) if mixed else None,
        worst=max((_told(cost, cell) for cell in cells), key=lambda shape: shape.error),
        seen=sum(step.gap_s or 0.0 for step in busy) / sum(step.took_s for step in busy),
        hiccups=len(busy) - sum(len(cell.took_s) for cell in (*cells, *mixed)),
    )


def _cells(steps: Sequence[TimedStep]) -> list[_Cell]:
    """Steps of a trial that computed alike, without hiccups."""
    like: dict[tuple[str, int, int], list[TimedStep]] = {}
    for step in steps:
        like.setdefault((step.trial, step.prefill_tokens, step.sequences), []).append(step)
    return [_cell(trial, found) for (trial, _, _), found in like.items()]


def _cell(trial: str, steps: Sequence[TimedStep]) -> _Cell:
    usual_s = median(step.took_s for step in steps)
    kept = [step for step in steps if step.took_s <= HICCUP * usual_s]
    rows = [(s.prefill_tokens, s.prefill_reads, s.sequences, s.kv_tokens) for s in kept]
    return _Cell(trial, np.mean(rows, axis=0), np.array([step.took_s for step in kept]))


def _check(cells: Sequence[_Cell]) -> None:
    """LmaasError unless the cells tell the parts of a cost apart."""
    steps = sum(len(cell.took_s) for cell in cells)
    if steps < FEWEST:
        raise LmaasError(f"{steps} steps were timed; a fit needs at least {FEWEST}")
    if min(cell.took_s.min() for cell in cells) <= 0:
        raise LmaasError("a step was timed as taking no time at all")
    rows = _rows(cells)
    for name, column in zip(COUNTED, rows.T[1:], strict=True):
        if np.ptp(column) == 0:
            raise LmaasError(f"every step had {column[0]:g} {name}: what they cost is not told")
    if np.linalg.matrix_rank(rows / rows.max(axis=0)) < len(TERMS):
        raise LmaasError(f"{', '.join(COUNTED)} never changed apart: what each costs is not told")


def _rows(cells: Sequence[_Cell]) -> Floats:
    """How often each cell counts each term: (n, 5)."""
    shapes = np.array([cell.shape for cell in cells])
    return np.column_stack([np.ones(len(cells)), shapes])


def _cost(cells: Sequence[_Cell]) -> LinearCost:
    """Least squares on the relative errors of the cells' means, each weighted by its steps."""
    mean_s = np.array([cell.took_s.mean() for cell in cells])
    weights = np.sqrt([len(cell.took_s) for cell in cells])
    rows = _rows(cells) / mean_s[:, None] * weights[:, None]
    size = np.linalg.norm(rows, axis=0)
    found, _ = nnls(rows / size, weights)
    return LinearCost(**dict(zip(TERMS, (found / size).tolist(), strict=True)))


def _told(cost: LinearCost, cell: _Cell) -> Shape:
    prefill, reads, sequences, kv_tokens = cell.shape.tolist()
    return Shape(
        trial=cell.trial,
        prefill_tokens=prefill,
        prefill_reads=reads,
        sequences=sequences,
        kv_tokens=kv_tokens,
        steps=len(cell.took_s),
        took_s=float(cell.took_s.mean()),
        told_s=_seconds(cost, cell),
    )


def _seconds(cost: LinearCost, cell: _Cell) -> float:
    return float(np.dot([getattr(cost, name) for name in TERMS], [1.0, *cell.shape]))


def _quality(cost: LinearCost, cells: Sequence[_Cell]) -> Quality:
    took_s = np.concatenate([cell.took_s for cell in cells])
    told_s = np.concatenate([np.full(len(cell.took_s), _seconds(cost, cell)) for cell in cells])
    spread = ((took_s - took_s.mean()) ** 2).sum()
    return Quality(
        steps=len(took_s),
        r2=float(1 - ((took_s - told_s) ** 2).sum() / spread) if spread else 1.0,
        median_error=float(np.median(np.abs(told_s / took_s - 1))),
        bias=float(told_s.sum() / took_s.sum() - 1),
    )


def lag_steps(waits: Sequence[Sequence[float]], order_s: float) -> int:
    """Whole steps that usually pass from the end of the step an order met to the order's own.

    `waits` are the times of the steps that passed in all, of several orders; each was on its way
    for `order_s`. 1 without any: as our engine composes.
    """
    if not waits:
        return 1
    return round(median(max(len(wait) - _met(wait, order_s), 0) for wait in waits))


def _met(wait: Sequence[float], order_s: float) -> int:
    """Which step, counted from 1, was under way when the order came."""
    ends_s = np.cumsum(wait)
    return int(np.searchsorted(ends_s, order_s, side="right")) + 1
