"""Forecasts of all predictors for a synthetic corpus."""

from pathlib import Path

import numpy as np
import pytest

from gateway.evaluation.arrivals import EvaluationRequests, RequestBuilder
from gateway.evaluation.baselines import app_mean, input_length, line_per_app
from gateway.evaluation.corpus import Corpus
from gateway.evaluation.lengths import count_words
from gateway.evaluation.magnus import (
    APP_DIMS,
    USER_DIMS,
    forest_features,
    magnus,
    point_predictions,
    pooled_dimensions,
)
from gateway.evaluation.ours import scores, serve
from gateway.evaluation.scoring import log_errors, score
from gateway.evaluation.sentences import SentenceEmbedder
from gateway.evaluation.vectors import TextVectors
from gateway.prediction.adaptation.adaptation import Adaptation
from gateway.prediction.model.heads import PredictedLengths
from gateway.prediction.training.scorecard import rms


@pytest.fixture
def sentences(tmp_path: Path) -> SentenceEmbedder:
    return SentenceEmbedder(1, tmp_path / "cache", lambda _: None)


@pytest.fixture
def corpus_requests(
    corpus: Corpus, sentences: SentenceEmbedder
) -> tuple[EvaluationRequests, EvaluationRequests]:
    builder = RequestBuilder(count_words, TextVectors(), sentences, history=False)
    return builder.build(corpus.train), builder.build(corpus.test)


def test_app_mean_is_each_apps_mean(
    corpus_requests: tuple[EvaluationRequests, EvaluationRequests],
) -> None:
    train, test = corpus_requests
    found = app_mean(train, test)
    for app in ("echo", "story"):
        mean = train.tokens[train.names == app].mean()
        assert found.mean[test.names == app] == pytest.approx(mean)


def test_line_fits_outputs_proportional_to_inputs(
    corpus_requests: tuple[EvaluationRequests, EvaluationRequests],
) -> None:
    train, test = corpus_requests
    echo = test.names == "echo"
    by_line, by_mean = line_per_app(train, test), app_mean(train, test)
    errors = [rms(log_errors(test.tokens, each)[echo]) for each in (by_line, by_mean)]
    assert errors[0] < 0.5 * errors[1]


def test_input_length_ignores_the_app(
    corpus_requests: tuple[EvaluationRequests, EvaluationRequests],
) -> None:
    train, test = corpus_requests
    found = input_length(train, test, 1)
    for uil in set(test.inputs.log_uil):
        same = test.inputs.log_uil == uil
        assert np.ptp(found.log_quantiles[same], axis=0).max() == 0


def test_magnus_reads_twenty_one_numbers(
    corpus_requests: tuple[EvaluationRequests, EvaluationRequests], sentences: SentenceEmbedder
) -> None:
    train, test = corpus_requests
    columns = forest_features(test, sentences)
    assert columns.shape == (len(test), 1 + APP_DIMS + USER_DIMS)
    assert columns[:, 0] == pytest.approx(np.expm1(test.inputs.log_uil), rel=1e-4)
    found = magnus(train, test, embedder=sentences, threads=1)
    assert (
        score(test.tokens, found).log_rmse_mean
        < score(test.tokens, app_mean(train, test)).log_rmse_mean
    )


def test_magnus_point_predictions_are_those_of_its_forest_of_tokens(
    corpus_requests: tuple[EvaluationRequests, EvaluationRequests], sentences: SentenceEmbedder
) -> None:
    train, test = corpus_requests
    for requests in (train, test):
        forest_features(requests, sentences)  # from now on rounded, from the cache
    found = point_predictions(train, test, embedder=sentences, threads=1)
    assert found == pytest.approx(magnus(train, test, embedder=sentences, threads=1).mean)


def test_pooling_takes_the_mean_of_neighbours() -> None:
    assert pooled_dimensions(np.array([[1, 3, 5, 9]], np.float32), 2).tolist() == [[2, 7]]


def test_embeddings_are_read_from_the_cache(sentences: SentenceEmbedder, tmp_path: Path) -> None:
    first = sentences.embed(["amber", "bridge", "amber"])
    again = SentenceEmbedder(1, tmp_path / "cache", lambda _: None)
    again._encode = lambda _: pytest.fail("embedded again")  # type: ignore[assignment, method-assign]
    assert np.abs(again.embed(["amber", "bridge", "amber"]) - first).max() < 1e-3
    assert (first[0] == first[2]).all()
    assert np.linalg.norm(first, axis=1) == pytest.approx(1, abs=1e-4)


def test_served_forecast_adapts_to_earlier_requests(
    corpus_requests: tuple[EvaluationRequests, EvaluationRequests],
) -> None:
    train, _ = corpus_requests
    low = np.log(np.tile([1.0, 1.5, 2.5, 4.0, 6.0, 8.0], (len(train), 1)))
    raw = PredictedLengths(low, np.full(len(train), 1.25))
    cold = serve(raw, train, Adaptation())
    assert cold.log_quantiles[0] == pytest.approx(low[0])  # no outcome yet
    assert cold.mean[0] == pytest.approx(1.25)
    assert (train.tokens[-50:] <= np.exp(cold.log_quantiles[-50:, 4])).mean() > 0.7
    warm = serve(raw, train, Adaptation(train.inputs.apps, scores(low, train)))
    assert warm.log_quantiles[0, 4] > low[0, 4]
    assert warm.log_quantiles[0, :4] == pytest.approx(low[0, :4])  # calibration: the upper alone
