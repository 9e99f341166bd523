"""An evaluation run: build requests, forecast with each predictor, score."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from gateway.errors import InvalidRequest
from gateway.evaluation.arrivals import EvaluationRequests, RequestBuilder
from gateway.evaluation.baselines import (
    APP_MEAN,
    INPUT_LENGTH,
    LINE_PER_APP,
    app_mean,
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
    threads: int = 1
    cache: Path | None = None


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
    """The data of plots: the test requests' lines (n), app names (n,) and lengths (n,)."""

    lines: list[CorpusLine]
    names: NDArray[np.str_]
    tokens: Floats
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
    train = builder.build(corpus.train)
    test = builder.build(corpus.test)
    ours = ProductModel(options.threads)
    progress(f"fitting on {len(train)} requests, forecasting {len(test)}")
    forecasts = {OURS: ours.forecast(train, test)}
    if options.baselines:
        progress("fitting the baselines")
        forecasts.update(_baselines(train, test, embedder, options.threads))
    summary = _summary(train, test, options, ours, forecasts)
    return EvaluationRun(test.lines, test.names, test.tokens, forecasts, summary)


def _baselines(
    train: EvaluationRequests, test: EvaluationRequests, embedder: SentenceEmbedder, threads: int
) -> Iterator[tuple[str, Forecast]]:
    yield INPUT_LENGTH, input_length(train, test, threads)
    yield APP_MEAN, app_mean(train, test)
    yield LINE_PER_APP, line_per_app(train, test)
    yield MAGNUS, magnus(train, test, embedder=embedder, threads=threads)


def _summary(
    train: EvaluationRequests,
    test: EvaluationRequests,
    options: EvaluationOptions,
    ours: ProductModel,
    forecasts: dict[str, Forecast],
) -> EvaluationSummary:
    errors = {name: log_errors(test.tokens, each) for name, each in forecasts.items()}
    return EvaluationSummary(
        lengths=options.lengths,
        history=options.history,
        train_rows=len(train),
        test_rows=len(test),
        new_apps=sorted(set(test.names.tolist()) - set(train.names.tolist())),
        fit_s=ours.fit_s,
        scores={
            name: score_apps(test.names, test.tokens, each) for name, each in forecasts.items()
        },
        versus={
            name: compare_apps(test.names, errors[OURS], theirs)
            for name, theirs in errors.items()
            if name != OURS
        },
        midflight=midflight(test.names, test.tokens, forecasts[OURS]),
    )
