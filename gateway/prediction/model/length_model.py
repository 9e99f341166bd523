"""The length model: a line per app, what like texts were answered at, then quantile trees.

Each stage is fitted on what the one before leaves, on log(1 + tokens) in spreads of the app's line.
An app that training did not see has none of this: see `newcomer`.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from gateway.prediction.expectation import expected_tokens
from gateway.prediction.features.text_encoder import CUES
from gateway.prediction.model.app_lines import (
    fit_lines,
    impute_censored,
    predict_lines,
    rows_by_app,
)
from gateway.prediction.model.artefact import AppLine, Artefact, FittedKernel, TextSpace, UnseenApps
from gateway.prediction.model.inputs import ModelInputs
from gateway.prediction.model.text_kernel import (
    KERNEL_OUTPUTS,
    MIN_KERNEL_ROWS,
    AppKernel,
    fit_kernel,
    fit_space,
    has_text,
    text_points,
)
from gateway.prediction.model.trees import fit_mean, fit_trees, read_trees
from gateway.prediction.model.unseen_apps import UnseenAppsModel, fit_unseen_apps
from gateway.quantiles import Bools, Floats

IMPUTATION_DRAWS: Final = 5  # values that stand in for one censored row
MEAN_ROUNDS: Final = 120
MEAN_SHAPE: Final = {"num_leaves": 31, "min_data_in_leaf": 20}
SEED: Final = 1
MAX_LOG_LENGTH: Final = 30.0  # more than any answer has


@dataclass(frozen=True, kw_only=True)
class FittedModel:
    """The parts of a fitted model; field by field those of `Artefact`."""

    pooled: AppLine
    lines: dict[UUID, AppLine]
    space: TextSpace
    kernels: dict[UUID, FittedKernel]
    trees: list[str]
    mean: str
    newcomer: UnseenApps


class PredictedLengths(NamedTuple):
    """Of n requests: quantiles of ln tokens at `LEVELS` (n, len(LEVELS)), and mean tokens (n,).

    The quantiles rise in each row; nothing is capped or calibrated yet.
    """

    quantiles: Floats
    mean: Floats


def fit(
    inputs: ModelInputs,
    tokens: Floats,
    censored: Bools,
    weights: Floats | None = None,
    *,
    threads: int,
) -> FittedModel:
    """Fit on n ≥ 1 requests and their generation lengths, each counting by its weight.

    A censored row enters the kernels at what is to be expected beyond it, and the trees as IMPUTATION_DRAWS
    rows at values drawn from there (`lines.beyond`).
    """
    weights = np.ones(len(inputs)) if weights is None else weights
    log_lengths = np.log1p(np.maximum(tokens, 1.0))
    pooled, lines = fit_lines(inputs.apps, inputs.log_uil, log_lengths, censored, weights)
    centre, spread = predict_lines(inputs.apps, inputs.log_uil, pooled, lines)
    scaled = (log_lengths - centre) / spread
    expected = impute_censored(scaled, censored, draws=1)[:, 0]
    space = fit_space(inputs.text)
    kernels, told = _fit_kernels(inputs, text_points(inputs.text, space), expected, weights)

    targets = impute_censored(scaled - told[:, 0], censored, draws=IMPUTATION_DRAWS)
    natural = np.flatnonzero(~censored)
    cut = np.repeat(np.flatnonzero(censored), IMPUTATION_DRAWS)
    rows = np.concatenate((natural, cut))
    table = _table(inputs, centre, spread, told)
    likely = centre + spread * expected
    missed = np.expm1(likely) - np.expm1(centre + spread * told[:, 0])
    return FittedModel(
        pooled=pooled,
        lines=lines,
        space=space,
        kernels=kernels,
        trees=fit_trees(
            table[rows],
            np.concatenate((targets[natural, 0], targets[censored].ravel())),
            np.concatenate((weights[natural], weights[cut] / IMPUTATION_DRAWS)),
            threads=threads,
        ),
        mean=fit_mean(table, missed, weights, MEAN_ROUNDS, threads=threads, **MEAN_SHAPE),
        newcomer=fit_unseen_apps(inputs, likely, censored, weights, threads=threads),
    )


class LengthModel:
    """A version ready to predict. PredictorRefused if its trees cannot be read."""

    def __init__(self, fitted: FittedModel | Artefact) -> None:
        self._fitted = fitted
        self._kernels = {app: AppKernel(kernel) for app, kernel in fitted.kernels.items()}
        *self._heads, self._mean = read_trees([*fitted.trees, fitted.mean])
        self._newcomer = UnseenAppsModel(fitted.newcomer)

    def predict(self, inputs: ModelInputs) -> PredictedLengths:
        """What is known of n requests' lengths."""
        known = np.array([app in self._fitted.lines for app in inputs.apps], dtype=np.bool_)
        if known.all():
            return self._seen(inputs)
        if not known.any():
            return _sorted_prediction(self._newcomer.predict(inputs))
        quantiles, mean = np.empty((len(inputs), len(self._heads))), np.empty(len(inputs))
        for rows, part in (
            (np.flatnonzero(known), self._seen),
            (np.flatnonzero(~known), lambda new: _sorted_prediction(self._newcomer.predict(new))),
        ):
            quantiles[rows], mean[rows] = part(inputs.rows(rows))
        return PredictedLengths(quantiles, mean)

    def _seen(self, inputs: ModelInputs) -> PredictedLengths:
        """Of apps that training saw."""
        fitted = self._fitted
        centre, spread = predict_lines(inputs.apps, inputs.log_uil, fitted.pooled, fitted.lines)
        points = text_points(inputs.text, fitted.space)
        told = np.zeros((len(inputs), len(KERNEL_OUTPUTS)))
        for app, rows in rows_by_app(inputs.apps).items():
            if app in self._kernels:
                told[rows] = self._kernels[app].tell(points[rows])
        table = _table(inputs, centre, spread, told)
        left = np.stack([head.score(table) for head in self._heads], axis=1)
        middle = centre + spread * told[:, 0]
        found = _sorted_prediction(middle[:, None] + spread[:, None] * left)
        mean = np.expm1(np.minimum(middle, MAX_LOG_LENGTH)) + self._mean.score(table)
        return PredictedLengths(found.quantiles, (found.mean + np.maximum(mean, 1.0)) / 2)


def _sorted_prediction(quantiles: Floats) -> PredictedLengths:
    """From quantiles of log(1 + tokens), and the mean that they tell."""
    # Sorting the levels of a row never raises its pinball loss (Chernozhukov et al. 2010).
    rising = from_log1p(np.sort(quantiles, axis=1))
    return PredictedLengths(rising, expected_tokens(np.exp(rising)))


def from_log1p(values: Floats) -> Floats:
    """Natural logarithms of tokens, at least 0, from log(1 + tokens)."""
    return np.log(np.maximum(np.expm1(np.minimum(values, MAX_LOG_LENGTH)), 1.0))


def _fit_kernels(
    inputs: ModelInputs, points: NDArray[np.float32], target: Floats, weights: Floats
) -> tuple[dict[UUID, FittedKernel], Floats]:
    """The kernels of apps with enough texts, and what they tell of the rows, (n, len(TOLD))."""
    random = np.random.default_rng(SEED)
    there = has_text(points)
    told = np.zeros((len(inputs), len(KERNEL_OUTPUTS)))
    kernels = {}
    for app, rows in rows_by_app(inputs.apps).items():
        with_text = rows[there[rows]]
        if len(with_text) >= MIN_KERNEL_ROWS:
            kernels[app], told[with_text] = fit_kernel(
                points[with_text], target[with_text], weights[with_text], random
            )
    return kernels, told


def _table(
    inputs: ModelInputs, centre: Floats, spread: Floats, told: Floats
) -> NDArray[np.float32]:
    own = np.column_stack(
        (
            centre,
            np.log(spread),
            spread[:, None] * told[:, :2],
            told[:, 2],
            centre + spread * told[:, 0],
        )
    )
    return np.hstack((inputs.request, inputs.text[:, CUES], own), dtype=np.float32)
