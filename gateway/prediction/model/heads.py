"""What a stage ends in: LightGBM models of the quantiles and of the mean of what is left."""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gateway.prediction.expectation import expected_tokens
from gateway.prediction.model.app_lines import impute_censored
from gateway.prediction.model.trees import fit_mean, fit_trees, read_trees
from gateway.quantiles import Bools, Floats

IMPUTATION_DRAWS: Final = 5  # imputed values per censored row
MEAN_ROUNDS: Final = 120
MEAN_SHAPE: Final = {"num_leaves": 31, "min_data_in_leaf": 20}
MAX_LOG_LENGTH: Final = 30.0  # above any answer; prevents overflow


class PredictedLengths(NamedTuple):
    """For n requests: quantiles of ln tokens at `LEVELS`, (n, len(LEVELS)), and mean tokens, (n,).

    Quantiles ascend within a row; they are neither capped nor calibrated.
    """

    quantiles: Floats
    mean: Floats


@dataclass(frozen=True, kw_only=True)
class ScaledLengths:
    """The lengths of n requests around their lines, all (n,).

    `scaled` is log(1 + tokens) less the line's `centre`, in its `spread`; `expected` the same with
    the expected value where the length is censored.
    """

    centre: Floats
    spread: Floats
    scaled: Floats
    expected: Floats
    censored: Bools
    weights: Floats

    def rows(self, which: NDArray[np.intp]) -> "ScaledLengths":
        """Those of a subset of the requests."""
        return ScaledLengths(**{name: column[which] for name, column in vars(self).items()})


def fit_heads(
    table: NDArray[np.float32], lengths: ScaledLengths, known: Floats, *, threads: int
) -> tuple[list[str], str]:
    """The trees per level and the tree of the mean, as LightGBM texts, on n rows (n, d).

    `known` (n,) is what the parts before predict, in spreads. A censored row enters the quantiles
    as IMPUTATION_DRAWS rows with imputed lengths (`app_lines.impute_censored`).
    """
    censored, weights = lengths.censored, lengths.weights
    targets = impute_censored(lengths.scaled - known, censored, draws=IMPUTATION_DRAWS)
    natural = np.flatnonzero(~censored)
    censored_rows = np.repeat(np.flatnonzero(censored), IMPUTATION_DRAWS)
    rows = np.concatenate((natural, censored_rows))
    centre, spread = lengths.centre, lengths.spread
    mean_residuals = np.expm1(centre + spread * lengths.expected) - np.expm1(
        centre + spread * known
    )
    trees = fit_trees(
        table[rows],
        np.concatenate((targets[natural, 0], targets[censored].ravel())),
        np.concatenate((weights[natural], weights[censored_rows] / IMPUTATION_DRAWS)),
        rows,
        threads=threads,
    )
    mean = fit_mean(table, mean_residuals, weights, MEAN_ROUNDS, threads=threads, **MEAN_SHAPE)
    return trees, mean


class Heads:
    """Fitted trees, ready to predict. PredictorRefused if they cannot be read."""

    def __init__(self, trees: list[str], mean: str) -> None:
        *self._quantiles, self._mean = read_trees([*trees, mean])

    def predict(
        self, table: NDArray[np.float32], centre: Floats, spread: Floats
    ) -> PredictedLengths:
        """The lengths of n rows (n, d) around what the parts before predict, `centre` (n,)."""
        scaled = np.stack([head.score(table) for head in self._quantiles], axis=1)
        found = sorted_prediction(centre[:, None] + spread[:, None] * scaled)
        mean = np.expm1(np.minimum(centre, MAX_LOG_LENGTH)) + self._mean.score(table)
        return PredictedLengths(found.quantiles, (found.mean + np.maximum(mean, 1.0)) / 2)


def sorted_prediction(quantiles: Floats) -> PredictedLengths:
    """From quantiles of log(1 + tokens): sorted, in ln tokens, with their mean."""
    # Sorting a row never increases its pinball loss (Chernozhukov et al. 2010).
    rising = from_log1p(np.sort(quantiles, axis=1))
    return PredictedLengths(rising, expected_tokens(np.exp(rising)))


def from_log1p(values: Floats) -> Floats:
    """Convert log(1 + tokens) to ln tokens, at least 0."""
    return np.log(np.maximum(np.expm1(np.minimum(values, MAX_LOG_LENGTH)), 1.0))
