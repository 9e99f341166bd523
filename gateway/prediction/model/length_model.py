"""The length model: a line per app, kernel ridge regression on similar texts, quantile trees.

Each stage is fitted on the residuals of the one before, of log(1 + tokens), in spreads of the app's
line. Requests whose user input has its sentence embedding have kernels and trees of their own
(`sentence_stage`), apps that are not in the training data a model of their own (`unseen_apps`).
An app's answers that are not free text are as those of an app of their own, for each form that
enough answers of all apps have.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np
from msgspec.structs import replace

from gateway.prediction.features.text_encoder import CUES
from gateway.prediction.messages import Form
from gateway.prediction.model.app_lines import fit_lines
from gateway.prediction.model.artefact import (
    SENTENCE_SHARE,
    AppLine,
    Artefact,
    FitSettings,
    FittedKernel,
    SentenceStage,
    TextSpace,
    UnseenApps,
)
from gateway.prediction.model.heads import (
    FittedHeads,
    Heads,
    LinePrediction,
    PredictedLengths,
    ScaledLengths,
    fit_heads,
    sorted_prediction,
)
from gateway.prediction.model.inputs import ModelInputs
from gateway.prediction.model.sentence_stage import (
    FittedStage,
    SentenceModel,
    fit_sentence_stage,
    sentence_shares,
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
from gateway.prediction.model.text_shares import shares_of
from gateway.prediction.model.trees import Table, left_out_parts
from gateway.prediction.model.unseen_apps import UnseenAppsModel, fit_unseen_apps
from gateway.quantiles import LEVELS, Bools, Floats

MIN_FORM_ROWS: Final = 20  # of a form, over all apps; with fewer its answers count as free
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
    settings: FitSettings
    sentences: SentenceStage | None = None
    forms: tuple[Form, ...] = ()

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
    settings: FitSettings | None = None,
) -> FittedModel:
    """Fit on n ≥ 1 weighted requests and their generation lengths.

    A censored row enters the kernels with its expected length, and the trees as several rows with
    imputed lengths. Without `settings` they are chosen by rows left out of the fit; with settings
    that have none for the second stage, it is left out.
    """
    weights = np.ones(len(inputs)) if weights is None else weights
    forms = inputs.common_forms(MIN_FORM_ROWS)
    inputs = inputs.by_form(forms)
    log_lengths = np.log1p(np.maximum(tokens, 1.0))
    pooled, lines = fit_lines(inputs.apps, inputs.log_uil, log_lengths, censored, weights)
    line = LinePrediction.of(inputs.apps, inputs.log_uil, pooled, lines)
    lengths = ScaledLengths.of(line, inputs.log_uil, log_lengths, censored, weights)
    space = fit_space(inputs.text)
    points, table = text_points(inputs.text, space), _table(inputs)
    kernels, outputs = fit_kernels(inputs.apps, points, lengths.expected, weights)
    read = with_kernel(table, line, outputs)
    parts = left_out_parts(len(inputs)) if settings is None else []
    heads = fit_heads(read, lengths, outputs[:, 0], settings, parts, threads=threads)
    second = None
    if settings is None or settings.sentences is not None:
        own = None if settings is None else settings.sentences
        second = fit_sentence_stage(inputs, lengths, points, table, own, parts, threads=threads)
    return FittedModel(
        pooled=pooled,
        lines=lines,
        space=space,
        kernels=kernels,
        trees=heads.trees,
        mean=heads.mean,
        unseen_apps=fit_unseen_apps(
            inputs, lengths.expected_log, censored, weights, threads=threads
        ),
        settings=_settings(settings, heads, second, lengths),
        sentences=second and second.stage,
        forms=forms,
    )


def _settings(
    given: FitSettings | None,
    first: FittedHeads,
    second: FittedStage | None,
    lengths: ScaledLengths,
) -> FitSettings:
    """Those of both stages, and what the second counts for: as given, or by left-out rows."""
    settings = replace(first.settings, sentences=second and second.settings)
    if given is not None or first.left_out is None or second is None or second.left_out is None:
        return settings
    share, shares = sentence_shares(lengths, first.left_out, second.left_out)
    return replace(settings, sentence_share=share, sentence_shares=shares)


class _TextParts(NamedTuple):
    """What both stages read of n requests: their lines, and points and tables, (n, …)."""

    line: LinePrediction
    points: Points
    table: Table


class LengthModel:
    """A fitted model, ready to predict. PredictorRefused if its trees cannot be read."""

    def __init__(self, fitted: FittedModel | Artefact) -> None:
        self._fitted = fitted
        self._kernels = {app: AppKernel(kernel) for app, kernel in fitted.kernels.items()}
        settings = fitted.settings
        self._heads = Heads(fitted.trees, fitted.mean, settings)
        self._sentences: SentenceModel | None = None
        if fitted.sentences is not None:
            self._sentences = SentenceModel(fitted.sentences, settings and settings.sentences)
        self._unseen_apps = UnseenAppsModel(fitted.unseen_apps)

    @property
    def reads_sentences(self) -> bool:
        """Whether it has a second stage, for requests with the embedding of their user input."""
        return self._sentences is not None

    def predict(self, inputs: ModelInputs) -> PredictedLengths:
        """The predicted lengths of n requests."""
        inputs = inputs.by_form(self._fitted.forms)
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
        return self._by_text(inputs, self._text_parts(inputs))

    def _by_text(self, inputs: ModelInputs, parts: _TextParts) -> PredictedLengths:
        line, points, table = parts
        outputs = kernel_outputs(self._kernels, inputs.apps, points)
        return self._heads.predict(with_kernel(table, line, outputs), line, outputs[:, 0])

    def _predict_by_sentence(self, inputs: ModelInputs) -> PredictedLengths:
        """For apps in the training data, with embeddings of the user inputs: of both stages."""
        assert self._sentences is not None
        parts = self._text_parts(inputs)
        by_text = self._by_text(inputs, parts)
        by_sentence = self._sentences.predict(inputs, *parts)
        shares = self._sentence_shares(inputs.apps)
        return PredictedLengths(
            by_text.quantiles + shares[:, None] * (by_sentence.quantiles - by_text.quantiles),
            by_text.mean + shares * (by_sentence.mean - by_text.mean),
        )

    def _sentence_shares(self, apps: Sequence[UUID]) -> Floats:
        """What the second stage counts for in n requests, (n,)."""
        settings = self._fitted.settings
        if settings is None:  # a version of an earlier release
            return np.full(len(apps), SENTENCE_SHARE)
        return shares_of(apps, settings.sentence_shares, settings.sentence_share)

    def _text_parts(self, inputs: ModelInputs) -> _TextParts:
        fitted = self._fitted
        line = LinePrediction.of(inputs.apps, inputs.log_uil, fitted.pooled, fitted.lines)
        return _TextParts(line, text_points(inputs.text, fitted.space), _table(inputs))


def _table(inputs: ModelInputs) -> Table:
    """What the trees read besides the outputs of line and kernel."""
    return np.hstack((inputs.request, inputs.text[:, CUES], inputs.form_columns), dtype=np.float32)
