"""The length model: a line per app, kernel ridge regression on similar texts, quantile trees.

Each stage is fitted on the residuals of the one before, of log(1 + tokens), in spreads of the app's
line. Requests whose user input has its sentence embedding have kernels and trees of their own
(`sentence_stage`), apps that are not in the training data a model of their own (`unseen_apps`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import numpy as np

from gateway.prediction.features.text_encoder import CUES
from gateway.prediction.model.app_lines import fit_lines, impute_censored, predict_lines
from gateway.prediction.model.artefact import (
    AppLine,
    Artefact,
    FittedKernel,
    SentenceStage,
    TextSpace,
    UnseenApps,
)
from gateway.prediction.model.heads import (
    Heads,
    PredictedLengths,
    ScaledLengths,
    fit_heads,
    sorted_prediction,
)
from gateway.prediction.model.inputs import ModelInputs
from gateway.prediction.model.sentence_stage import (
    SentenceModel,
    Table,
    fit_sentence_stage,
    with_kernel,
)
from gateway.prediction.model.text_kernel import (
    AppKernel,
    Points,
    fit_kernels,
    fit_space,
    kernel_outputs,
    text_points,
)
from gateway.prediction.model.unseen_apps import UnseenAppsModel, fit_unseen_apps
from gateway.quantiles import LEVELS, Bools, Floats

_UNSEEN, _BY_TEXT, _BY_SENTENCE = range(3)


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
    sentences: SentenceStage | None = None

    @property
    def reads_embeddings(self) -> bool:
        """Whether a prediction depends on sentence embeddings."""
        return self.sentences is not None or bool(self.unseen_apps.instructions)


def fit(
    inputs: ModelInputs,
    tokens: Floats,
    censored: Bools,
    weights: Floats | None = None,
    *,
    threads: int,
) -> FittedModel:
    """Fit on n ≥ 1 weighted requests and their generation lengths.

    A censored row enters the kernels with its expected length, and the trees as several rows with
    imputed lengths.
    """
    weights = np.ones(len(inputs)) if weights is None else weights
    log_lengths = np.log1p(np.maximum(tokens, 1.0))
    pooled, lines = fit_lines(inputs.apps, inputs.log_uil, log_lengths, censored, weights)
    centre, spread = predict_lines(inputs.apps, inputs.log_uil, pooled, lines)
    scaled = (log_lengths - centre) / spread
    lengths = ScaledLengths(
        centre=centre,
        spread=spread,
        scaled=scaled,
        expected=impute_censored(scaled, censored, draws=1)[:, 0],
        censored=censored,
        weights=weights,
    )
    space = fit_space(inputs.text)
    points = text_points(inputs.text, space)
    kernels, outputs = fit_kernels(inputs.apps, points, lengths.expected, weights)
    read = with_kernel(_table(inputs), centre, spread, outputs)
    trees, mean = fit_heads(read, lengths, outputs[:, 0], threads=threads)
    expected_log = centre + spread * lengths.expected
    return FittedModel(
        pooled=pooled,
        lines=lines,
        space=space,
        kernels=kernels,
        trees=trees,
        mean=mean,
        unseen_apps=fit_unseen_apps(inputs, expected_log, censored, weights, threads=threads),
        sentences=fit_sentence_stage(inputs, lengths, points, _table(inputs), threads=threads),
    )


class _TextParts(NamedTuple):
    """What both stages read of n requests: their lines (n,), points and tables (n, …)."""

    centre: Floats
    spread: Floats
    points: Points
    table: Table


class LengthModel:
    """A fitted model, ready to predict. PredictorRefused if its trees cannot be read."""

    def __init__(self, fitted: FittedModel | Artefact) -> None:
        self._fitted = fitted
        self._kernels = {app: AppKernel(kernel) for app, kernel in fitted.kernels.items()}
        self._heads = Heads(fitted.trees, fitted.mean)
        self._sentences = SentenceModel(fitted.sentences) if fitted.sentences else None
        self._unseen_apps = UnseenAppsModel(fitted.unseen_apps)

    @property
    def reads_sentences(self) -> bool:
        """Whether it has a second stage, for requests with the embedding of their user input."""
        return self._sentences is not None

    def predict(self, inputs: ModelInputs) -> PredictedLengths:
        """The predicted lengths of n requests."""
        known = np.array([app in self._fitted.lines for app in inputs.apps], dtype=np.bool_)
        embedded = inputs.embedded & self.reads_sentences
        part_of = np.where(known, np.where(embedded, _BY_SENTENCE, _BY_TEXT), _UNSEEN)
        parts: tuple[Callable[[ModelInputs], PredictedLengths], ...] = (
            self._predict_unseen,
            self._predict_by_text,
            self._predict_by_sentence,
        )
        present: list[int] = np.unique(part_of).tolist()
        if len(present) == 1:
            return parts[present[0]](inputs)
        quantiles, mean = np.empty((len(inputs), len(LEVELS))), np.empty(len(inputs))
        for part in present:
            rows = np.flatnonzero(part_of == part)
            quantiles[rows], mean[rows] = parts[part](inputs.rows(rows))
        return PredictedLengths(quantiles, mean)

    def _predict_unseen(self, inputs: ModelInputs) -> PredictedLengths:
        """For apps that are not in the training data."""
        return sorted_prediction(self._unseen_apps.predict(inputs))

    def _predict_by_text(self, inputs: ModelInputs) -> PredictedLengths:
        """For apps in the training data, without embeddings of the user inputs."""
        centre, spread, points, table = self._text_parts(inputs)
        outputs = kernel_outputs(self._kernels, inputs.apps, points)
        read = with_kernel(table, centre, spread, outputs)
        return self._heads.predict(read, centre + spread * outputs[:, 0], spread)

    def _predict_by_sentence(self, inputs: ModelInputs) -> PredictedLengths:
        """For apps in the training data, with embeddings of the user inputs."""
        assert self._sentences is not None
        return self._sentences.predict(inputs, *self._text_parts(inputs))

    def _text_parts(self, inputs: ModelInputs) -> _TextParts:
        fitted = self._fitted
        centre, spread = predict_lines(inputs.apps, inputs.log_uil, fitted.pooled, fitted.lines)
        points = text_points(inputs.text, fitted.space)
        return _TextParts(centre, spread, points, _table(inputs))


def _table(inputs: ModelInputs) -> Table:
    """What the trees read besides the outputs of line and kernel."""
    return np.hstack((inputs.request, inputs.text[:, CUES]), dtype=np.float32)
