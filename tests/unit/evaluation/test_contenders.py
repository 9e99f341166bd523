"""What each side says of an invented corpus."""

from pathlib import Path

import numpy as np
import pytest

from gateway.evaluation.arrivals import Arrivals, Requests
from gateway.evaluation.baselines import app_mean, input_length, line
from gateway.evaluation.corpus import Corpus
from gateway.evaluation.lengths import count_words
from gateway.evaluation.magnus import APP_DIMS, USER_DIMS, magnus, pooled, table
from gateway.evaluation.ours import scores, serve
from gateway.evaluation.scoring import log_errors, score
from gateway.evaluation.sentences import Sentences
from gateway.evaluation.vectors import TextVectors
from gateway.prediction.adaptation.adaptation import Adaptation
from gateway.prediction.model.length_model import Predicted
from gateway.prediction.training.scorecard import rms


@pytest.fixture
def sentences(tmp_path: Path) -> Sentences:
    return Sentences(1, tmp_path / "cache", lambda _: None)


@pytest.fixture
def parts(corpus: Corpus, sentences: Sentences) -> tuple[Requests, Requests]:
    arrivals = Arrivals(count_words, TextVectors(), sentences, history=False)
    return arrivals.take(corpus.train), arrivals.take(corpus.test)


def test_app_mean_is_each_apps_mean(parts: tuple[Requests, Requests]) -> None:
    learned, test = parts
    found = app_mean(learned, test)
    for app in ("echo", "story"):
        mean = learned.tokens[learned.names == app].mean()
        assert found.mean[test.names == app] == pytest.approx(mean)


def test_line_knows_that_an_echo_is_as_long_as_its_input(parts: tuple[Requests, Requests]) -> None:
    learned, test = parts
    echo = test.names == "echo"
    by_line, by_mean = line(learned, test), app_mean(learned, test)
    errors = [rms(log_errors(test.tokens, each)[echo]) for each in (by_line, by_mean)]
    assert errors[0] < 0.5 * errors[1]


def test_input_length_tells_no_apps_apart(parts: tuple[Requests, Requests]) -> None:
    learned, test = parts
    found = input_length(learned, test, 1)
    for uil in set(test.inputs.log_uil):
        same = test.inputs.log_uil == uil
        assert np.ptp(found.log_quantiles[same], axis=0).max() == 0


def test_magnus_reads_twenty_one_numbers(
    parts: tuple[Requests, Requests], sentences: Sentences
) -> None:
    learned, test = parts
    columns = table(test, sentences)
    assert columns.shape == (len(test), 1 + APP_DIMS + USER_DIMS)
    assert columns[:, 0] == pytest.approx(np.expm1(test.inputs.log_uil), rel=1e-4)
    found = magnus(learned, test, sentences=sentences, threads=1)
    assert (
        score(test.tokens, found).log_rmse_mean
        < score(test.tokens, app_mean(learned, test)).log_rmse_mean
    )


def test_pooling_takes_the_mean_of_neighbours() -> None:
    assert pooled(np.array([[1, 3, 5, 9]], np.float32), 2).tolist() == [[2, 7]]


def test_embeddings_come_back_from_the_folder(sentences: Sentences, tmp_path: Path) -> None:
    first = sentences.embed(["amber", "bridge", "amber"])
    again = Sentences(1, tmp_path / "cache", lambda _: None)
    again._encode = lambda _: pytest.fail("embedded again")  # type: ignore[assignment, method-assign]
    assert np.abs(again.embed(["amber", "bridge", "amber"]) - first).max() < 1e-3
    assert (first[0] == first[2]).all()
    assert np.linalg.norm(first, axis=1) == pytest.approx(1, abs=1e-4)


def test_what_is_served_learns_from_the_requests_before(parts: tuple[Requests, Requests]) -> None:
    learned, _ = parts
    low = np.log(np.tile([1.0, 1.1, 1.2, 1.3, 1.4, 1.5], (len(learned), 1)))
    said = Predicted(low, np.full(len(learned), 1.25))
    cold = serve(said, learned, Adaptation())
    assert cold.log_quantiles[0] == pytest.approx(low[0])  # nothing has ended yet
    assert cold.mean[0] == pytest.approx(1.25)
    assert (learned.tokens[-50:] <= np.exp(cold.log_quantiles[-50:, 4])).mean() > 0.7
    warm = serve(said, learned, Adaptation(learned.inputs.apps, scores(low, learned)))
    assert warm.log_quantiles[0, 4] > low[0, 4]
    assert warm.log_quantiles[0, :4] == pytest.approx(low[0, :4])  # calibration: the upper alone
