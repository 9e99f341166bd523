"""LightGBM models: quantile heads and means."""

import ctypes
import math
import weakref
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import lightgbm
import numpy as np
from numpy.typing import NDArray

from gateway.errors import PredictorRefused
from gateway.quantiles import LEVELS, Bools, Floats

MIN_ROUNDS: Final = 60
MAX_ROUNDS: Final = 120
ROWS_PER_ROUND: Final = 10
FOLDS: Final = 5  # parts of the requests that are left out in turn
MIN_FOLD_ROWS: Final = 4  # of the requests; smaller parts are not left out
MIN_LEFT_OUT_ROWS: Final = 4_000  # of the requests; further parts are not left out
MIN_LOSS_GAIN: Final = 0.02  # of the left-out loss, for which fewer rounds are taken
SEED: Final = 1
MAX_LEAVES: Final = 31
MIN_LEAF_ROWS: Final = 20
COMMON_PARAMETERS: Final[dict[str, Any]] = {
    "learning_rate": 0.07,
    "lambda_l2": 1.0,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "max_bin": 127,
    "seed": SEED,
    "deterministic": True,
    "force_col_wise": True,
    "verbosity": -1,
}

MAX_SINGLE_ROWS: Final = 8  # more rows are faster in one call

Table = NDArray[np.float32]
Parts = Sequence[NDArray[np.intp]]
_LIB: Final = lightgbm.basic._LIB  # noqa: SLF001 - the only way to its C interface
_checked: Final = lightgbm.basic._safe_call  # noqa: SLF001
_NORMAL: Final = 0  # C_API_PREDICT_NORMAL
_FLOAT32: Final = 0  # C_API_DTYPE_FLOAT32


class Targets(NamedTuple):
    """What n requests' trees are fitted on: m ≥ n rows of a table, with targets and weights, (m,).

    `requests` (m,) numbers the requests of the rows, below n.
    """

    requests: NDArray[np.intp]
    target: Floats
    weights: Floats


class LeftOut(NamedTuple):
    """Quantiles of `rows` (k,) of n requests, (k, len(LEVELS)), by trees fitted without them.

    `rounds` is the number of boosting rounds with the least loss on them.
    """

    rows: NDArray[np.intp]
    quantiles: Floats
    rounds: int


def fit_trees(table: Table, targets: Targets, rounds: int, *, threads: int) -> list[str]:
    """LightGBM texts, one per level, of n requests' rows (n, d)."""
    parameters = _parameters(targets, threads)
    data = _dataset(table, targets, np.ones(len(targets.target), np.bool_), parameters)
    return [_train({**parameters, "alpha": level}, data, rounds) for level in LEVELS]


def most_rounds(rows: int) -> int:
    """The boosting rounds for `rows` rows; fewer are taken where left-out rows ask for it."""
    return int(np.clip(rows // ROWS_PER_ROUND, MIN_ROUNDS, MAX_ROUNDS))


def cross_fit(table: Table, targets: Targets, parts: Parts, *, threads: int) -> LeftOut:
    """Predict each part of the requests (n, d) by trees that were fitted without it.

    With little to learn from, as where lengths rarely depend on the text, fewer rounds are better
    than `most_rounds`: taken are those with the least loss, if it is lower by MIN_LOSS_GAIN.
    """
    rounds = most_rounds(len(targets.target))
    parameters = _parameters(targets, threads)
    losses, boosters = np.zeros(rounds), []
    for part in parts:
        held_out = np.isin(targets.requests, part)
        fitted = _dataset(table, targets, ~held_out, parameters)
        judged = _dataset(table, targets, held_out, parameters).set_reference(fitted)
        found = [
            _judged({**parameters, "alpha": level}, fitted, judged, rounds) for level in LEVELS
        ]
        losses += held_out.sum() * np.sum([loss for _, loss in found], axis=0)
        boosters.append([booster for booster, _ in found])
    if losses.min() < (1 - MIN_LOSS_GAIN) * losses[-1]:
        rounds = int(losses.argmin()) + 1
    quantiles = [np.empty((0, len(LEVELS)))]
    for part, own in zip(parts, boosters, strict=True):
        predicted = [booster.predict(table[part], num_iteration=rounds) for booster in own]
        quantiles.append(np.stack(predicted, axis=1))
    rows = np.concatenate([np.empty(0, np.intp), *parts])
    return LeftOut(rows, np.concatenate(quantiles), rounds)


def left_out_parts(requests: int) -> Parts:
    """The random parts of n requests that are left out in turn; none of too few.

    FOLDS parts, of which those after MIN_LEFT_OUT_ROWS requests are not left out.
    """
    if requests < FOLDS * MIN_FOLD_ROWS:
        return []
    parts = np.array_split(np.random.default_rng(SEED).permutation(requests), FOLDS)
    return parts[: math.ceil(FOLDS * MIN_LEFT_OUT_ROWS / requests)]


def _parameters(targets: Targets, threads: int) -> dict[str, Any]:
    leaves = int(np.clip(len(targets.target) // (2 * MIN_LEAF_ROWS), 2, MAX_LEAVES))
    shape = {"num_leaves": leaves, "min_data_in_leaf": MIN_LEAF_ROWS}
    return {**COMMON_PARAMETERS, **shape, "num_threads": threads, "objective": "quantile"}


def _dataset(
    table: Table, targets: Targets, which: Bools, parameters: dict[str, Any]
) -> lightgbm.Dataset:
    requests, target, weights = (each[which] for each in targets)
    return lightgbm.Dataset(
        table[requests], label=target, weight=weights, params=parameters, free_raw_data=False
    )


def _judged(
    parameters: dict[str, Any], fitted: lightgbm.Dataset, judged: lightgbm.Dataset, rounds: int
) -> tuple[lightgbm.Booster, Floats]:
    """A model, and its mean pinball loss on the rows judged after each round, (rounds,)."""
    recorded: dict[str, dict[str, list[float]]] = {}
    booster = lightgbm.train(
        {**parameters, "metric": "quantile"},
        fitted,
        rounds,
        valid_sets=[judged],
        valid_names=["left out"],
        callbacks=[lightgbm.record_evaluation(recorded)],
    )
    return booster, np.array(recorded["left out"]["quantile"])


def fit_mean(
    table: Table, target: Floats, weights: Floats, rounds: int, *, threads: int, **shape: int
) -> str:
    """The LightGBM text of a model of the mean, fitted on (n, d) rows."""
    parameters = {**COMMON_PARAMETERS, **shape, "num_threads": threads, "objective": "l2"}
    data = lightgbm.Dataset(table, label=target, weight=weights, params=parameters)
    return _train(parameters, data, rounds)


def _train(parameters: dict[str, Any], data: lightgbm.Dataset, rounds: int) -> str:
    return str(lightgbm.train(parameters, data, num_boost_round=rounds).model_to_string())


class TreeHead:
    """One fitted LightGBM model, ready to score on one thread."""

    def __init__(self, text: str) -> None:
        self._booster = lightgbm.Booster(model_str=text)
        self._row = _RowScorer(self._booster)

    def score(self, table: Table) -> Floats:
        """Outputs for (n, d) rows, (n,)."""
        if len(table) <= MAX_SINGLE_ROWS:
            rows = np.ascontiguousarray(table, dtype=np.float32)
            return np.array([self._row.score(row) for row in rows])
        return np.asarray(self._booster.predict(table, num_threads=1), dtype=np.float64)


class _RowScorer:
    """LightGBM's single-row C API, which `Booster` does not offer: a third of its cost."""

    def __init__(self, booster: lightgbm.Booster) -> None:
        self._booster = booster  # must outlive the configuration
        self._columns = booster.num_feature()
        self._config = ctypes.c_void_p()
        self._length = ctypes.c_int64()
        self._output = ctypes.c_double()
        _checked(
            _LIB.LGBM_BoosterPredictForMatSingleRowFastInit(
                booster._handle,  # noqa: SLF001
                ctypes.c_int(_NORMAL),
                ctypes.c_int(0),  # from the first round
                ctypes.c_int(-1),  # to the last
                ctypes.c_int(_FLOAT32),
                ctypes.c_int32(self._columns),
                b"num_threads=1",
                ctypes.byref(self._config),
            )
        )
        weakref.finalize(self, _LIB.LGBM_FastConfigFree, self._config)
        self._outputs = ctypes.byref(self._length), ctypes.byref(self._output)

    def score(self, row: Table) -> float:
        """The output for a contiguous row, (d,)."""
        if row.shape != (self._columns,):
            raise ValueError(f"a row of {row.shape}, {self._columns} columns expected")
        _checked(
            _LIB.LGBM_BoosterPredictForMatSingleRowFast(
                self._config, ctypes.c_void_p(row.ctypes.data), *self._outputs
            )
        )
        return self._output.value


def read_trees(texts: Sequence[str]) -> list[TreeHead]:
    """Models from their texts. PredictorRefused if a text cannot be read."""
    try:
        return [TreeHead(text) for text in texts]
    except lightgbm.basic.LightGBMError as error:
        raise PredictorRefused(f"LightGBM cannot read the predictor's trees: {error}") from error
