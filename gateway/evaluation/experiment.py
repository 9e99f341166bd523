"""An evaluation run: build requests, forecast with each predictor, score."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from gateway.errors import InvalidRequest
from gateway.evaluation.arrivals import EvaluationRequests, RequestBuilder
from gateway.evaluation.baselines import (
    APP_MEAN,
    APP_MEDIAN,
    INPUT_LENGTH,
    LINE_PER_APP,
    app_mean,
    app_median,
    input_length,
    line_per_app,
)
from gateway.evaluation.bootstrap import PairedDifference, compare_apps
from gateway.evaluation.corpus import Corpus, CorpusLine
from gateway.evaluation.forecast import Forecast
from gateway.evaluation.lengths import LengthRule, token_counter
from gateway.evaluation.magnus import NAME as MAGNUS
from gateway.evaluation.magnus import magnus
from gateway.evaluation.midflight import MidflightErrors, midflight
from gateway.evaluation.ours import ProductModel
from gateway.evaluation.peers import peers
from gateway.evaluation.scoring import DetailedScorecard, log_errors, score_apps
from gateway.evaluation.sentences import Progress, SentenceEmbedder
from gateway.evaluation.vectors import TextVectors
from gateway.prediction.training.row_counts import MIN_TRAINING_ROWS
from gateway.quantiles import Floats

OURS: Final = "ours"


class EvaluationOptions(Struct, frozen=True, kw_only=True):
    """Options of a run. `cache` is a folder that keeps sentence embeddings between runs."""

    lengths: LengthRule = "words"
    history: bool = False
    baselines: bool = False
    peers: bool = False
    threads: int = 1
    cache: Path | None = None


@dataclass(frozen=True)
class Forecasts:
    """Forecasts of test requests by each predictor, trained on `train_rows` in `fit_s` seconds."""

    test: EvaluationRequests
    natural: dict[str, Forecast]
    new_apps: set[str]
    train_rows: int
    fit_s: float


class EvaluationSummary(Struct, frozen=True, kw_only=True):
    """The results of a run.

    `scores` by predictor and app; `versus` by baseline and app: the paired comparison of log-RMSE.
    `new_apps` have no training lines; `fit_s` is the training time in seconds.
    """

    lengths: LengthRule
    history: bool
    train_rows: int
    test_rows: int
    new_apps: list[str]
    fit_s: float
    scores: dict[str, dict[str, DetailedScorecard]]
    versus: dict[str, dict[str, PairedDifference]]
    midflight: list[MidflightErrors]


@dataclass(frozen=True)
class EvaluationRun:
    """The data of plots: the test requests' lines (n), app names (n,) and lengths (n,).

    `natural` are the forecasts of the natural length; within `max_tokens` (n,) they are `forecasts`
    of what is generated, which is what is scored.
    """

    lines: list[CorpusLine]
    names: NDArray[np.str_]
    tokens: Floats
    max_tokens: Floats
    natural: dict[str, Forecast]
    forecasts: dict[str, Forecast]
    summary: EvaluationSummary


def run(
    corpus: Corpus, options: EvaluationOptions, texts: TextVectors, progress: Progress
) -> EvaluationRun:
    """Train on the training lines and forecast the test lines; `progress` gets status messages.

    InvalidRequest with fewer training lines than the product needs.
    """
    if len(corpus.train) < MIN_TRAINING_ROWS:
        raise InvalidRequest(
            f"{len(corpus.train)} lines to train on are too few, "
            f"at least {MIN_TRAINING_ROWS} are needed"
        )
    progress(f"reading lengths ({options.lengths}) and texts of {len(corpus.train)} training lines")
    count = token_counter(options.lengths, corpus.train)
    embedder = SentenceEmbedder(options.threads, options.cache, progress)
    builder = RequestBuilder(count, texts, embedder, history=options.history)
    train, test = builder.build(corpus.train), builder.build(corpus.test)
    return evaluate([forecast(train, test, options, embedder, progress)], options)


def forecast(
    train: EvaluationRequests,
    test: EvaluationRequests,
    options: EvaluationOptions,
    embedder: SentenceEmbedder,
    progress: Progress,
) -> Forecasts:
    """Train on the one part and forecast the other, with each predictor."""
    ours = ProductModel(options.threads)
    progress(f"fitting on {len(train)} requests, forecasting {len(test)}")
    natural = {OURS: ours.forecast(train, test)}
    if options.baselines:
        progress("fitting the baselines")
        natural.update(_baselines(train, test, embedder, options.threads))
    if options.peers:
        natural.update(peers(train, test))
    new_apps = set(test.names.tolist()) - set(train.names.tolist())
    return Forecasts(test, natural, new_apps, len(train), ours.fit_s)


def evaluate(parts: Sequence[Forecasts], options: EvaluationOptions) -> EvaluationRun:
    """Score the forecasts of n ≥ 1 parts together: one test, or the folds of a cross-validation."""
    names, tokens, limits = (
        np.concatenate([getattr(part.test, column) for part in parts])
        for column in ("names", "tokens", "max_tokens")
    )
    natural = {
        name: Forecast.concatenate([part.natural[name] for part in parts])
        for name in parts[0].natural
    }
    forecasts = {name: each.capped(limits) for name, each in natural.items()}
    errors = {name: log_errors(tokens, each) for name, each in forecasts.items()}
    summary = EvaluationSummary(
        lengths=options.lengths,
        history=options.history,
        train_rows=round(fmean(part.train_rows for part in parts)),
        test_rows=len(tokens),
        new_apps=sorted({app for part in parts for app in part.new_apps}),
        fit_s=fmean(part.fit_s for part in parts),
        scores={name: score_apps(names, tokens, each) for name, each in forecasts.items()},
        versus={
            name: compare_apps(names, errors[OURS], theirs)
            for name, theirs in errors.items()
            if name != OURS
        },
        midflight=midflight(names, tokens, limits, forecasts[OURS]),
    )
    lines = [line for part in parts for line in part.test.lines]
    return EvaluationRun(lines, names, tokens, limits, natural, forecasts, summary)


def _baselines(
    train: EvaluationRequests, test: EvaluationRequests, embedder: SentenceEmbedder, threads: int
) -> Iterator[tuple[str, Forecast]]:
    yield INPUT_LENGTH, input_length(train, test, threads)
    yield APP_MEAN, app_mean(train, test)
    yield APP_MEDIAN, app_median(train, test)
    yield LINE_PER_APP, line_per_app(train, test)
    yield MAGNUS, magnus(train, test, embedder=embedder, threads=threads)
