"""LightGBM models: quantile heads and means."""

import ctypes
import weakref
from collections.abc import Sequence
from typing import Any, Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from gateway.errors import PredictorRefused
from gateway.quantiles import LEVELS, Bools, Floats

MIN_ROUNDS: Final = 60
MAX_ROUNDS: Final = 120
ROWS_PER_ROUND: Final = 10
MIN_SURE_ROWS: Final = 12_000  # from here on the rounds are not checked
CHECKING_SHARE: Final = 0.2  # of the requests, held out
MIN_LOSS_GAIN: Final = 0.02  # of the held-out loss, for which fewer rounds are taken
MAX_LEAVES: Final = 31
MIN_LEAF_ROWS: Final = 20
COMMON_PARAMETERS: Final[dict[str, Any]] = {
    "learning_rate": 0.07,
    "lambda_l2": 1.0,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "max_bin": 127,
    "seed": 1,
    "deterministic": True,
    "force_col_wise": True,
    "verbosity": -1,
}

MAX_SINGLE_ROWS: Final = 8  # more rows are faster in one call

Table = NDArray[np.float32]
_LIB: Final = lightgbm.basic._LIB  # noqa: SLF001 - the only way to its C interface
_checked: Final = lightgbm.basic._safe_call  # noqa: SLF001
_NORMAL: Final = 0  # C_API_PREDICT_NORMAL
_FLOAT32: Final = 0  # C_API_DTYPE_FLOAT32


def fit_trees(
    table: Table,
    target: Floats,
    weights: Floats,
    requests: NDArray[np.intp] | None = None,
    *,
    threads: int,
) -> list[str]:
    """LightGBM texts, one per level, fitted on (n, d) rows with (n,) targets and weights.

    Fewer than MIN_SURE_ROWS rows may have little to learn from, as where lengths hardly depend on
    the text. Then fewer rounds are taken if that lowers the loss on requests that are held out.
    `requests` (n,) numbers the requests of the rows.
    """
    shape = {
        "num_leaves": int(np.clip(len(table) // (2 * MIN_LEAF_ROWS), 2, MAX_LEAVES)),
        "min_data_in_leaf": MIN_LEAF_ROWS,
    }
    parameters = {**COMMON_PARAMETERS, **shape, "num_threads": threads, "objective": "quantile"}
    rounds = int(np.clip(len(table) // ROWS_PER_ROUND, MIN_ROUNDS, MAX_ROUNDS))
    if len(table) < MIN_SURE_ROWS:
        held_out = _held_out(np.arange(len(table)) if requests is None else requests)
        if held_out.sum() >= MIN_LEAF_ROWS:
            losses = _losses(parameters, table, target, weights, held_out, rounds)
            if losses.min() < (1 - MIN_LOSS_GAIN) * losses[-1]:
                rounds = int(losses.argmin()) + 1
    data = lightgbm.Dataset(
        table, label=target, weight=weights, params=parameters, free_raw_data=False
    )
    return [_train({**parameters, "alpha": level}, data, rounds) for level in LEVELS]


def _held_out(requests: NDArray[np.intp]) -> Bools:
    """Which rows belong to a random share of the requests, (n,); the seed is fixed."""
    distinct = np.unique(requests)
    chosen = np.random.default_rng(COMMON_PARAMETERS["seed"]).permutation(distinct)
    return np.isin(requests, chosen[: round(CHECKING_SHARE * len(distinct))])


def _losses(
    parameters: dict[str, Any],
    table: Table,
    target: Floats,
    weights: Floats,
    held_out: Bools,
    rounds: int,
) -> Floats:
    """The pinball loss on the rows held out after each round, summed over the levels, (rounds,)."""
    fitted, judged = (
        {"data": table[rows], "label": target[rows], "weight": weights[rows]}
        for rows in (~held_out, held_out)
    )
    data = lightgbm.Dataset(**fitted, params=parameters, free_raw_data=False)
    losses = np.zeros(rounds)
    for level in LEVELS:
        recorded: dict[str, dict[str, list[float]]] = {}
        lightgbm.train(
            {**parameters, "alpha": level, "metric": "quantile"},
            data,
            rounds,
            valid_sets=[lightgbm.Dataset(**judged, reference=data, free_raw_data=False)],
            valid_names=["held out"],
            callbacks=[lightgbm.record_evaluation(recorded)],
        )
        losses += recorded["held out"]["quantile"]
    return losses


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
