"""The length model: a line per app, kernel ridge regression on similar texts, quantile trees.

Each stage is fitted on the residuals of the one before, of log(1 + tokens), in spreads of the app's
line. Apps that are not in the training data have a model of their own: `unseen_apps`.
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

IMPUTATION_DRAWS: Final = 5  # imputed values per censored row
MEAN_ROUNDS: Final = 120
MEAN_SHAPE: Final = {"num_leaves": 31, "min_data_in_leaf": 20}
SEED: Final = 1
MAX_LOG_LENGTH: Final = 30.0  # above any answer; prevents overflow


@dataclass(frozen=True, kw_only=True)
class FittedModel:
    """The parts of a fitted model; fields as in `Artefact`."""

    pooled: AppLine
    lines: dict[UUID, AppLine]
    space: TextSpace
    kernels: dict[UUID, FittedKernel]
    trees: list[str]
    mean: str
    unseen_apps: UnseenApps


class PredictedLengths(NamedTuple):
    """For n requests: quantiles of ln tokens at `LEVELS`, (n, len(LEVELS)), and mean tokens, (n,).

    Quantiles ascend within a row; they are neither capped nor calibrated.
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
    """Fit on n ≥ 1 weighted requests and their generation lengths.

    A censored row enters the kernels with its expected length, and the trees as IMPUTATION_DRAWS
    rows with imputed lengths (`app_lines.impute_censored`).
    """
    weights = np.ones(len(inputs)) if weights is None else weights
    log_lengths = np.log1p(np.maximum(tokens, 1.0))
    pooled, lines = fit_lines(inputs.apps, inputs.log_uil, log_lengths, censored, weights)
    centre, spread = predict_lines(inputs.apps, inputs.log_uil, pooled, lines)
    scaled = (log_lengths - centre) / spread
    expected = impute_censored(scaled, censored, draws=1)[:, 0]
    space = fit_space(inputs.text)
    kernels, outputs = _fit_kernels(inputs, text_points(inputs.text, space), expected, weights)

    targets = impute_censored(scaled - outputs[:, 0], censored, draws=IMPUTATION_DRAWS)
    natural = np.flatnonzero(~censored)
    censored_rows = np.repeat(np.flatnonzero(censored), IMPUTATION_DRAWS)
    rows = np.concatenate((natural, censored_rows))
    table = _table(inputs, centre, spread, outputs)
    expected_log = centre + spread * expected
    mean_residuals = np.expm1(expected_log) - np.expm1(centre + spread * outputs[:, 0])
    return FittedModel(
        pooled=pooled,
        lines=lines,
        space=space,
        kernels=kernels,
        trees=fit_trees(
            table[rows],
            np.concatenate((targets[natural, 0], targets[censored].ravel())),
            np.concatenate((weights[natural], weights[censored_rows] / IMPUTATION_DRAWS)),
            rows,
            threads=threads,
        ),
        mean=fit_mean(table, mean_residuals, weights, MEAN_ROUNDS, threads=threads, **MEAN_SHAPE),
        unseen_apps=fit_unseen_apps(inputs, expected_log, censored, weights, threads=threads),
    )


class LengthModel:
    """A fitted model, ready to predict. PredictorRefused if its trees cannot be read."""

    def __init__(self, fitted: FittedModel | Artefact) -> None:
        self._fitted = fitted
        self._kernels = {app: AppKernel(kernel) for app, kernel in fitted.kernels.items()}
        *self._heads, self._mean = read_trees([*fitted.trees, fitted.mean])
        self._unseen_apps = UnseenAppsModel(fitted.unseen_apps)

    def predict(self, inputs: ModelInputs) -> PredictedLengths:
        """The predicted lengths of n requests."""
        known = np.array([app in self._fitted.lines for app in inputs.apps], dtype=np.bool_)
        if known.all():
            return self._predict_known(inputs)
        if not known.any():
            return _sorted_prediction(self._unseen_apps.predict(inputs))
        quantiles, mean = np.empty((len(inputs), len(self._heads))), np.empty(len(inputs))
        for rows, part in (
            (np.flatnonzero(known), self._predict_known),
            (
                np.flatnonzero(~known),
                lambda new: _sorted_prediction(self._unseen_apps.predict(new)),
            ),
        ):
            quantiles[rows], mean[rows] = part(inputs.rows(rows))
        return PredictedLengths(quantiles, mean)

    def _predict_known(self, inputs: ModelInputs) -> PredictedLengths:
        """For apps in the training data."""
        fitted = self._fitted
        centre, spread = predict_lines(inputs.apps, inputs.log_uil, fitted.pooled, fitted.lines)
        points = text_points(inputs.text, fitted.space)
        outputs = np.zeros((len(inputs), len(KERNEL_OUTPUTS)))
        for app, rows in rows_by_app(inputs.apps).items():
            if app in self._kernels:
                outputs[rows] = self._kernels[app].predict(points[rows])
        table = _table(inputs, centre, spread, outputs)
        scaled_quantiles = np.stack([head.score(table) for head in self._heads], axis=1)
        kernel_centre = centre + spread * outputs[:, 0]
        found = _sorted_prediction(kernel_centre[:, None] + spread[:, None] * scaled_quantiles)
        mean = np.expm1(np.minimum(kernel_centre, MAX_LOG_LENGTH)) + self._mean.score(table)
        return PredictedLengths(found.quantiles, (found.mean + np.maximum(mean, 1.0)) / 2)


def _sorted_prediction(quantiles: Floats) -> PredictedLengths:
    """From quantiles of log(1 + tokens): sorted, in ln tokens, with their mean."""
    # Sorting a row never increases its pinball loss (Chernozhukov et al. 2010).
    rising = from_log1p(np.sort(quantiles, axis=1))
    return PredictedLengths(rising, expected_tokens(np.exp(rising)))


def from_log1p(values: Floats) -> Floats:
    """Convert log(1 + tokens) to ln tokens, at least 0."""
    return np.log(np.maximum(np.expm1(np.minimum(values, MAX_LOG_LENGTH)), 1.0))


def _fit_kernels(
    inputs: ModelInputs, points: NDArray[np.float32], target: Floats, weights: Floats
) -> tuple[dict[UUID, FittedKernel], Floats]:
    """The kernels of apps with enough texts, and their outputs, (n, len(KERNEL_OUTPUTS))."""
    rng = np.random.default_rng(SEED)
    with_vector = has_text(points)
    outputs = np.zeros((len(inputs), len(KERNEL_OUTPUTS)))
    kernels = {}
    for app, rows in rows_by_app(inputs.apps).items():
        with_text = rows[with_vector[rows]]
        if len(with_text) >= MIN_KERNEL_ROWS:
            kernels[app], outputs[with_text] = fit_kernel(
                points[with_text], target[with_text], weights[with_text], rng
            )
    return kernels, outputs


def _table(
    inputs: ModelInputs, centre: Floats, spread: Floats, outputs: Floats
) -> NDArray[np.float32]:
    derived = np.column_stack(
        (
            centre,
            np.log(spread),
            spread[:, None] * outputs[:, :2],
            outputs[:, 2],
            centre + spread * outputs[:, 0],
        )
    )
    return np.hstack((inputs.request, inputs.text[:, CUES], derived), dtype=np.float32)
