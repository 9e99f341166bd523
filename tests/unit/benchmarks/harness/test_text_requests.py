"""Requests made of texts with predicted lengths, and their cache."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness import text_requests as text_requests_file
from benchmarks.harness.text_requests import text_requests, with_published_predictions
from gateway.evaluation.corpus import Corpus, CorpusLine
from gateway.evaluation.experiment import OURS, EvaluationRun
from gateway.evaluation.forecast import Forecast
from gateway.quantiles import MEDIAN


def a_line(app: str, words: int) -> CorpusLine:
    return CorpusLine(app=app, instruction="say it", input="one two three", output="word " * words)


def a_run(corpus: Corpus) -> EvaluationRun:
    """A run that predicts every line exactly."""
    lines = corpus.test
    tokens = np.array([float(len(line.output.split())) for line in lines])
    levels = np.log(tokens[:, None] * np.array([0.5, 0.8, 1, 1.2, 1.5, 2]))
    names = np.array([line.app for line in lines])
    found = {OURS: Forecast.of(levels)}
    limits = np.full(len(lines), 1000.0)
    return EvaluationRun(lines, names, tokens, limits, found, found, summary=None)  # type: ignore[arg-type]


@pytest.fixture
def predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of prediction runs, which are replaced by exact ones."""
    asked: list[int] = []
    corpus = Corpus([], [a_line("grammar", 4), a_line("detox", 7), a_line("grammar", 9)])

    def run(given: Corpus, *_: object) -> EvaluationRun:
        asked.append(len(given.test))
        return a_run(given)

    monkeypatch.setattr(text_requests_file, "FOLDER", tmp_path / "kept")
    monkeypatch.setattr(text_requests_file, "read_corpus", lambda *_: corpus)
    monkeypatch.setattr(text_requests_file, "run", run)
    return asked


def test_prompt_is_instruction_and_input(predictions: list[int], tmp_path: Path) -> None:
    found = text_requests(tmp_path, 1, print)
    assert found.prompt_tokens.tolist() == [5, 5, 5]
    assert found.generation_tokens.tolist() == [4, 7, 9]
    assert found.quantiles[:, MEDIAN] == pytest.approx([4, 7, 9])
    assert [found.apps[number] for number in found.app] == ["grammar", "detox", "grammar"]
    assert predictions == [3]


@pytest.mark.usefixtures("predictions")
def test_published_predictor_gives_one_number_and_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([np.array([3.5, 6.5, 0.2])])
    monkeypatch.setattr(text_requests_file, "_published_predictions", lambda *_: next(found))
    requests = text_requests(tmp_path, 1, print)
    for _ in range(2):
        predicted = with_published_predictions(requests, tmp_path, 1, print)
        assert predicted.quantiles.tolist() == [[3.5] * 6, [6.5] * 6, [1.0] * 6]
        assert predicted.generation_tokens.tolist() == requests.generation_tokens.tolist()


def test_predictions_are_kept_until_texts_change(predictions: list[int], tmp_path: Path) -> None:
    text_requests(tmp_path, 1, print)
    text_requests(tmp_path, 1, print)
    assert len(predictions) == 1
    (tmp_path / "more.jsonl").write_text("{}")
    text_requests(tmp_path, 1, print)
    assert len(predictions) == 2
