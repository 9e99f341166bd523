"""One run: make requests, let every contender forecast, and measure them."""

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
from gateway.prediction.training.fitting import MIN_TRAINING_ROWS
from gateway.quantiles import Floats

OURS: Final = "ours"


class EvaluationOptions(Struct, frozen=True, kw_only=True):
    """What a run does. `cache` keeps the vectors that Magnus needs from one run to the next."""

    lengths: LengthRule = "words"
    history: bool = False
    baselines: bool = False
    threads: int = 1
    cache: Path | None = None


class EvaluationSummary(Struct, frozen=True, kw_only=True):
    """The numbers of a run.

    `scores` by contender and app, `versus` by baseline and app: the paired comparison of
    log-RMSE. `new_apps` are those that were not trained on; `fit_s` in seconds.
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
    """What pictures are drawn from: the test requests' lines (n), apps (n,) and lengths (n,)."""

    lines: list[CorpusLine]
    names: NDArray[np.str_]
    tokens: Floats
    forecasts: dict[str, Forecast]
    summary: EvaluationSummary


def run(
    corpus: Corpus, wanted: EvaluationOptions, texts: TextVectors, tell: Progress
) -> EvaluationRun:
    """Train on one part of the corpus and forecast the other; `tell` hears of the progress.

    InvalidRequest if the product would not train on so few.
    """
    if len(corpus.train) < MIN_TRAINING_ROWS:
        raise InvalidRequest(
            f"{len(corpus.train)} lines to train on are too few, at least {MIN_TRAINING_ROWS} are needed"
        )
    tell(f"reading lengths ({wanted.lengths}) and texts of {len(corpus.train)} lines to learn from")
    count = token_counter(wanted.lengths, corpus.train)
    sentences = SentenceEmbedder(wanted.threads, wanted.cache, tell)
    arrivals = RequestBuilder(count, texts, sentences, history=wanted.history)
    learned = arrivals.take(corpus.train)
    test = arrivals.take(corpus.test)
    ours = ProductModel(wanted.threads)
    tell(f"fitting on {len(learned)} requests, forecasting {len(test)}")
    forecasts = {OURS: ours.forecast(learned, test)}
    if wanted.baselines:
        tell("fitting the baselines")
        forecasts.update(_baselines(learned, test, sentences, wanted.threads))
    summary = _summary(learned, test, wanted, ours, forecasts)
    return EvaluationRun(test.lines, test.names, test.tokens, forecasts, summary)


def _baselines(
    learned: EvaluationRequests, test: EvaluationRequests, sentences: SentenceEmbedder, threads: int
) -> Iterator[tuple[str, Forecast]]:
    yield INPUT_LENGTH, input_length(learned, test, threads)
    yield APP_MEAN, app_mean(learned, test)
    yield LINE_PER_APP, line_per_app(learned, test)
    yield MAGNUS, magnus(learned, test, sentences=sentences, threads=threads)


def _summary(
    learned: EvaluationRequests,
    test: EvaluationRequests,
    wanted: EvaluationOptions,
    ours: ProductModel,
    forecasts: dict[str, Forecast],
) -> EvaluationSummary:
    errors = {name: log_errors(test.tokens, each) for name, each in forecasts.items()}
    return EvaluationSummary(
        lengths=wanted.lengths,
        history=wanted.history,
        train_rows=len(learned),
        test_rows=len(test),
        new_apps=sorted(set(test.names.tolist()) - set(learned.names.tolist())),
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
