"""LightGBM quantile heads, one for each level."""

from collections.abc import Sequence
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from gateway.errors import PredictorRefused
from gateway.prediction.messages import LEVELS
from gateway.prediction.survival import Floats

LEAST_ROUNDS = 60
MOST_ROUNDS = 200
ROWS_PER_ROUND = 10
MOST_LEAVES = 31
LEAST_LEAF_ROWS = 20

Table = NDArray[np.float32]


def fit_trees(table: Table, target: Floats, weights: Floats, *, threads: int) -> list[str]:
    """LightGBM texts for `LEVELS`, fitted on (n, d) rows with (n,) targets and weights."""
    data = lightgbm.Dataset(table, label=target, weight=weights, free_raw_data=False)
    leaves = int(np.clip(len(table) // (2 * LEAST_LEAF_ROWS), 2, MOST_LEAVES))
    rounds = int(np.clip(len(table) // ROWS_PER_ROUND, LEAST_ROUNDS, MOST_ROUNDS))
    common: dict[str, Any] = {
        "objective": "quantile",
        "learning_rate": 0.05,
        "num_leaves": leaves,
        "min_data_in_leaf": LEAST_LEAF_ROWS,
        "lambda_l2": 1.0,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "num_threads": threads,
        "seed": 1,
        "deterministic": True,
        "force_col_wise": True,
        "verbosity": -1,
    }
    return [
        lightgbm.train({**common, "alpha": level}, data, num_boost_round=rounds).model_to_string()
        for level in LEVELS
    ]


class Trees:
    """Fitted heads, ready to score; one thread. PredictorRefused if a text is none."""

    def __init__(self, texts: Sequence[str]) -> None:
        try:
            self._heads = [lightgbm.Booster(model_str=text) for text in texts]
        except lightgbm.basic.LightGBMError as error:
            raise PredictorRefused(
                f"LightGBM cannot read the predictor's trees: {error}"
            ) from error

    def score(self, table: Table) -> Floats:
        """The heads' outputs for (n, d) rows, (n, len(LEVELS))."""
        return np.stack(
            [np.asarray(head.predict(table, num_threads=1)) for head in self._heads], axis=1
        )
