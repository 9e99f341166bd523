"""Fits the cost of an engine's steps to their measured times."""

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

OUTLIER_RATIO: Final = 3.0  # to the median of equal steps: above, the machine was busy
MIN_STEPS: Final = 40
TERMS: Final = ("step_s", "prompt_token_s", "prompt_read_s", "sequence_s", "kv_token_s")
COUNT_NAMES: Final = ("prompt tokens", "KV reads of prompts", "decoding sequences", "KV tokens")


class TimedStep(Protocol):
    """A step of a trial: what it computed, and its time."""

    @property
    def trial(self) -> str:
        """The trial's name."""

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens computed."""

    @property
    def prefill_reads(self) -> float:
        """KV tokens read by the prompt tokens, each those before it."""

    @property
    def sequences(self) -> int:
        """Sequences that decoded."""

    @property
    def kv_tokens(self) -> int:
        """KV tokens read by the sequences."""

    @property
    def took_s(self) -> float:
        """Seconds from the end of the previous step."""

    @property
    def gap_s(self) -> float | None:
        """Seconds since the client saw the previous step; None after the engine was idle."""


class StepGroup(Struct, frozen=True):
    """Equal steps of a trial, measured and modelled: means, times in seconds."""

    trial: str
    prefill_tokens: float
    prefill_reads: float
    sequences: float
    kv_tokens: float
    steps: int
    took_s: float
    modelled_s: float

    @property
    def error(self) -> float:
        """Relative error of the modelled step time."""
        return abs(self.modelled_s / self.took_s - 1)


class FitQuality(Struct, frozen=True):
    """The errors of a cost, on measured steps.

    `median_error` is the median absolute error relative to the measured time. `bias` is the sum of
    the modelled times over the sum of the measured times, minus 1.
    """

    steps: int
    r2: float
    median_error: float
    bias: float


class CostFit(Struct, frozen=True):
    """A cost with its errors, on the steps it was fitted to and on those of the mix.

    `seen` is the time between steps as a gateway sees it, over the engine's own step times.
    `hiccups` counts the outliers: steps left out since they took far longer than equal ones.
    """

    cost: LinearCost
    fitted: FitQuality
    mix: FitQuality | None
    worst: StepGroup
    seen: float
    hiccups: int


class CalibratedEngine(EngineModel, frozen=True, kw_only=True):
    """An engine as measured: the engine model of a replay, and how well it fits."""

    model: str
    device: str
    dtype: str
    trials: int
    fit: CostFit


class _TimedGroup(NamedTuple):
    """Equal steps of a trial, without outliers."""

    trial: str
    counts: Floats  # means, (4,): see `COUNT_NAMES`
    took_s: Floats


def fit_cost(steps: Sequence[TimedStep]) -> CostFit:
    """The cost with the least squared relative errors and no negative coefficient.

    Groups of equal steps are fitted by their mean time, because a replay adds up mean times.
    LmaasError if the steps do not determine every coefficient.
    """
    busy = [step for step in steps if step.gap_s is not None]
    groups = _groups([step for step in busy if step.trial != MIX])
    mixed = _groups([step for step in busy if step.trial == MIX])
    _check(groups)
    cost = _cost(groups)
    return CostFit(
        cost=cost,
        fitted=_quality(cost, groups),
        mix=_quality(cost, mixed) if mixed else None,
        worst=max((_modelled(cost, group) for group in groups), key=lambda group: group.error),
        seen=sum(step.gap_s or 0.0 for step in busy) / sum(step.took_s for step in busy),
        hiccups=len(busy) - sum(len(group.took_s) for group in (*groups, *mixed)),
    )


def _groups(steps: Sequence[TimedStep]) -> list[_TimedGroup]:
    """Steps of the same trial, prompt tokens and sequences together, without outliers."""
    equal: dict[tuple[str, int, int], list[TimedStep]] = {}
    for step in steps:
        equal.setdefault((step.trial, step.prefill_tokens, step.sequences), []).append(step)
    return [_group(trial, found) for (trial, _, _), found in equal.items()]


def _group(trial: str, steps: Sequence[TimedStep]) -> _TimedGroup:
    median_s = median(step.took_s for step in steps)
    kept = [step for step in steps if step.took_s <= OUTLIER_RATIO * median_s]
    rows = [(s.prefill_tokens, s.prefill_reads, s.sequences, s.kv_tokens) for s in kept]
    return _TimedGroup(trial, np.mean(rows, axis=0), np.array([step.took_s for step in kept]))


def _check(groups: Sequence[_TimedGroup]) -> None:
    """LmaasError unless the groups determine every coefficient."""
    steps = sum(len(group.took_s) for group in groups)
    if steps < MIN_STEPS:
        raise LmaasError(f"{steps} steps were timed; a fit needs at least {MIN_STEPS}")
    if min(group.took_s.min() for group in groups) <= 0:
        raise LmaasError("a measured step time is 0")
    rows = _rows(groups)
    for name, column in zip(COUNT_NAMES, rows.T[1:], strict=True):
        if np.ptp(column) == 0:
            raise LmaasError(
                f"every step had {column[0]:g} {name}: their cost cannot be determined"
            )
    if np.linalg.matrix_rank(rows / rows.max(axis=0)) < len(TERMS):
        raise LmaasError(
            f"{', '.join(COUNT_NAMES)} never varied independently: "
            "the cost of each cannot be determined"
        )


def _rows(groups: Sequence[_TimedGroup]) -> Floats:
    """The design matrix, a row for each group: (n, 5) in the order of `TERMS`."""
    counts = np.array([group.counts for group in groups])
    return np.column_stack([np.ones(len(groups)), counts])


def _cost(groups: Sequence[_TimedGroup]) -> LinearCost:
    """Non-negative least squares on the relative errors of group means, weighted by steps."""
    mean_s = np.array([group.took_s.mean() for group in groups])
    weights = np.sqrt([len(group.took_s) for group in groups])
    rows = _rows(groups) / mean_s[:, None] * weights[:, None]
    size = np.linalg.norm(rows, axis=0)
    found, _ = nnls(rows / size, weights)
    return LinearCost(**dict(zip(TERMS, (found / size).tolist(), strict=True)))


def _modelled(cost: LinearCost, group: _TimedGroup) -> StepGroup:
    prefill, reads, sequences, kv_tokens = group.counts.tolist()
    return StepGroup(
        trial=group.trial,
        prefill_tokens=prefill,
        prefill_reads=reads,
        sequences=sequences,
        kv_tokens=kv_tokens,
        steps=len(group.took_s),
        took_s=float(group.took_s.mean()),
        modelled_s=_seconds(cost, group),
    )


def _seconds(cost: LinearCost, group: _TimedGroup) -> float:
    return float(np.dot([getattr(cost, name) for name in TERMS], [1.0, *group.counts]))


def _quality(cost: LinearCost, groups: Sequence[_TimedGroup]) -> FitQuality:
    took_s = np.concatenate([group.took_s for group in groups])
    modelled_s = np.concatenate(
        [np.full(len(group.took_s), _seconds(cost, group)) for group in groups]
    )
    spread = ((took_s - took_s.mean()) ** 2).sum()
    return FitQuality(
        steps=len(took_s),
        r2=float(1 - ((took_s - modelled_s) ** 2).sum() / spread) if spread else 1.0,
        median_error=float(np.median(np.abs(modelled_s / took_s - 1))),
        bias=float(modelled_s.sum() / took_s.sum() - 1),
    )


def lag_steps(waits: Sequence[Sequence[float]], submit_delay_s: float) -> int:
    """The median number of whole steps between a submission's arrival and the step that takes it.

    `waits` has, for each submission, the times of all steps from sending it to the step that takes
    it; it was in transit for `submit_delay_s`. The step that runs on arrival does not count. The
    result is 1 without any submission, as LMaaS's engine composes.
    """
    if not waits:
        return 1
    return round(median(max(len(wait) - _current_step(wait, submit_delay_s), 0) for wait in waits))


def _current_step(wait: Sequence[float], submit_delay_s: float) -> int:
    """The step, counted from 1, that ran when the submission arrived."""
    ends_s = np.cumsum(wait)
    return int(np.searchsorted(ends_s, submit_delay_s, side="right")) + 1
