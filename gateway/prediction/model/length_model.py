"""The length model: a line per app, kernel ridge regression on similar texts, quantile trees.

Each stage is fitted on the residuals of the one before, of log(1 + tokens), in spreads of the app's
line. Apps that are not in the training data have a model of their own: `unseen_apps`.
"""

from collections.abc import Sequence
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
    leverages,
    line_levels,
    predict_lines,
    rows_by_app,
)
from gateway.prediction.model.artefact import (
    AppLine,
    Artefact,
    FitSettings,
    FittedKernel,
    TextSpace,
    UnseenApps,
)
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
from gateway.prediction.model.text_shares import blend, choose_shares, share_losses
from gateway.prediction.model.trees import (
    LeftOut,
    Targets,
    cross_fit,
    fit_mean,
    fit_trees,
    read_trees,
)
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
    settings: FitSettings


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
    settings: FitSettings | None = None,
) -> FittedModel:
    """Fit on n ≥ 1 weighted requests and their generation lengths.

    A censored row enters the kernels with its expected length, and the trees as IMPUTATION_DRAWS
    rows with imputed lengths (`app_lines.impute_censored`). Without `settings` they are chosen by
    rows left out of the fit.
    """
    weights = np.ones(len(inputs)) if weights is None else weights
    log_lengths = np.log1p(np.maximum(tokens, 1.0))
    pooled, lines = fit_lines(inputs.apps, inputs.log_uil, log_lengths, censored, weights)
    centre, spread = predict_lines(inputs.apps, inputs.log_uil, pooled, lines)
    scaled = (log_lengths - centre) / spread
    expected = impute_censored(scaled, censored, draws=1)[:, 0]
    space = fit_space(inputs.text)
    kernels, outputs = _fit_kernels(inputs, text_points(inputs.text, space), expected, weights)

    imputed = impute_censored(scaled - outputs[:, 0], censored, draws=IMPUTATION_DRAWS)
    targets = _tree_targets(imputed, censored, weights)
    table = _table(inputs, centre, spread, outputs)
    expected_log = centre + spread * expected
    if settings is None:
        left_out = cross_fit(table, targets, threads=threads)
        rows = left_out.rows
        settings = _settings(
            left_out,
            inputs.rows(rows),
            line_levels(inputs.apps, pooled, lines)[rows],
            outputs[rows, 0],
            imputed[rows],
            spread[rows],
            weights[rows],
            _moved(inputs, weights, expected)[rows],
        )
    mean_residuals = np.expm1(expected_log) - np.expm1(centre + spread * outputs[:, 0])
    return FittedModel(
        pooled=pooled,
        lines=lines,
        space=space,
        kernels=kernels,
        trees=fit_trees(table, targets, settings.rounds, threads=threads),
        mean=fit_mean(table, mean_residuals, weights, MEAN_ROUNDS, threads=threads, **MEAN_SHAPE),
        unseen_apps=fit_unseen_apps(inputs, expected_log, censored, weights, threads=threads),
        settings=settings,
    )


def _tree_targets(imputed: Floats, censored: Bools, weights: Floats) -> Targets:
    """Natural rows once, censored ones with each of their imputed targets (n, draws)."""
    natural, cut_off = np.flatnonzero(~censored), np.flatnonzero(censored)
    draws = imputed.shape[1]
    return Targets(
        requests=np.concatenate((natural, np.repeat(cut_off, draws))),
        target=np.concatenate((imputed[natural, 0], imputed[cut_off].ravel())),
        weights=np.concatenate((weights[natural], np.repeat(weights[cut_off] / draws, draws))),
    )


def _moved(inputs: ModelInputs, weights: Floats, scaled: Floats) -> Floats:
    """How far each row would move from its line, in spreads, if the line had not seen it."""
    leverage = leverages(inputs.log_uil, rows_by_app(inputs.apps), weights)
    return scaled * leverage / (1 - leverage)


def _settings(
    left_out: LeftOut,
    inputs: ModelInputs,
    line: Floats,
    kernel: Floats,
    imputed: Floats,
    spread: Floats,
    weights: Floats,
    moved: Floats,
) -> FitSettings:
    """The shares of the text parts, chosen on the k rows that were left out."""
    # The targets are residuals of the kernel; all are as far from a line without the row.
    lengths = imputed + (kernel + moved)[:, None]
    full = kernel[:, None] + left_out.quantiles
    losses = spread[:, None] * share_losses(line, full, lengths)
    share, shares = choose_shares(losses, weights, rows_by_app(inputs.apps))
    return FitSettings(left_out.rounds, share, shares)


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
        full = outputs[:, :1] + np.stack([head.score(table) for head in self._heads], axis=1)
        shares, line = self._shares(inputs.apps), full
        if fitted.settings is not None:
            line = line_levels(inputs.apps, fitted.pooled, fitted.lines)
        found = _sorted_prediction(centre[:, None] + spread[:, None] * blend(line, full, shares))
        kernel_centre = np.minimum(centre + spread * outputs[:, 0], MAX_LOG_LENGTH)
        mean = np.maximum(np.expm1(kernel_centre) + self._mean.score(table), 1.0)
        return PredictedLengths(found.quantiles, found.mean + shares / 2 * (mean - found.mean))

    def _shares(self, apps: Sequence[UUID]) -> Floats:
        """What the text parts count for in n requests, (n,)."""
        settings = self._fitted.settings
        if settings is None:  # a version of an earlier release
            return np.ones(len(apps))
        return np.array([settings.shares.get(app, settings.share) for app in apps])


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
