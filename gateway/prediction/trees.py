"""LightGBM: quantile heads, and means."""

from collections.abc import Sequence
from typing import Any, Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from gateway.errors import PredictorRefused
from gateway.prediction.messages import LEVELS
from gateway.prediction.survival import Floats

LEAST_ROUNDS: Final = 60
MOST_ROUNDS: Final = 120
ROWS_PER_ROUND: Final = 10
MOST_LEAVES: Final = 31
LEAST_LEAF_ROWS: Final = 20
COMMON: Final[dict[str, Any]] = {
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

Table = NDArray[np.float32]


def fit_trees(table: Table, target: Floats, weights: Floats, *, threads: int) -> list[str]:
    """LightGBM texts for `LEVELS`, fitted on (n, d) rows with (n,) targets and weights."""
    rounds = int(np.clip(len(table) // ROWS_PER_ROUND, LEAST_ROUNDS, MOST_ROUNDS))
    shape = {
        "num_leaves": int(np.clip(len(table) // (2 * LEAST_LEAF_ROWS), 2, MOST_LEAVES)),
        "min_data_in_leaf": LEAST_LEAF_ROWS,
    }
    parameters = {**COMMON, **shape, "num_threads": threads, "objective": "quantile"}
    data = lightgbm.Dataset(
        table, label=target, weight=weights, params=parameters, free_raw_data=False
    )
    return [_train({**parameters, "alpha": level}, data, rounds) for level in LEVELS]


def fit_mean(
    table: Table, target: Floats, weights: Floats, rounds: int, *, threads: int, **shape: int
) -> str:
    """The LightGBM text of the mean."""
    parameters = {**COMMON, **shape, "num_threads": threads, "objective": "l2"}
    data = lightgbm.Dataset(table, label=target, weight=weights, params=parameters)
    return _train(parameters, data, rounds)


def _train(parameters: dict[str, Any], data: lightgbm.Dataset, rounds: int) -> str:
    return str(lightgbm.train(parameters, data, num_boost_round=rounds).model_to_string())


class Trees:
    """One fitted head, ready to score; one thread."""

    def __init__(self, text: str) -> None:
        self._booster = lightgbm.Booster(model_str=text)

    def score(self, table: Table) -> Floats:
        """Its outputs for (n, d) rows, (n,)."""
        return np.asarray(self._booster.predict(table, num_threads=1), dtype=np.float64)


def read_trees(texts: Sequence[str]) -> list[Trees]:
    """Heads from their texts. PredictorRefused if a text is none."""
    try:
        return [Trees(text) for text in texts]
    except lightgbm.basic.LightGBMError as error:
        raise PredictorRefused(f"LightGBM cannot read the predictor's trees: {error}") from error
