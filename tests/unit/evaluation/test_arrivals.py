"""Requests built from lines, with and without history."""

from typing import Any

import numpy as np
import pytest

from gateway.evaluation.arrivals import EvaluationRequests, RequestBuilder, app_id
from gateway.evaluation.corpus import CorpusLine
from gateway.evaluation.lengths import count_words
from gateway.evaluation.sentences import SentenceEmbedder
from gateway.evaluation.vectors import TextVectors
from gateway.prediction.features.features import NAMES
from gateway.prediction.features.text_encoder import TEXT_DIMS


class ZeroEmbedder(SentenceEmbedder):
    """Returns zero embeddings: no test here reads them."""

    def __init__(self) -> None:
        pass

    def embed(self, texts: Any) -> Any:
        return np.zeros((len(texts), 384), dtype=np.float32)


def lines(app: str, words: int, count: int = 20, user: str | None = None) -> list[CorpusLine]:
    return [
        CorpusLine(
            app=app, instruction="Do.", input=f"number {n}", output="word " * words, user=user
        )
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def texts() -> TextVectors:
    return TextVectors()


def a_builder(texts: TextVectors, *, history: bool) -> RequestBuilder:
    return RequestBuilder(count_words, texts, ZeroEmbedder(), history=history)


def column(requests: EvaluationRequests, name: str) -> np.ndarray[Any, Any]:
    return requests.inputs.features[:, NAMES.index(name)]


def test_requests_carry_lengths_and_vectors_of_their_lines(texts: TextVectors) -> None:
    requests = a_builder(texts, history=False).build([*lines("a", 3), *lines("b", 0)])
    by_app = dict(zip(requests.names.tolist(), requests.tokens.tolist(), strict=True))
    assert by_app == {"a": 3, "b": 1}  # an answer has a token at least
    assert requests.inputs.text.shape == (40, TEXT_DIMS)
    assert requests.inputs.log_uil == pytest.approx(np.log1p(2))
    assert requests.inputs.apps == [app_id(name) for name in requests.names]


def test_order_of_arrival_is_shuffled_and_the_same_every_time(texts: TextVectors) -> None:
    some = [*lines("a", 3), *lines("b", 5)]
    one, two = (a_builder(texts, history=False).build(some) for _ in range(2))
    assert one.lines == two.lines != some


def test_without_history_no_length_is_known(texts: TextVectors) -> None:
    builder = a_builder(texts, history=False)
    builder.build(lines("a", 3))
    later = builder.build(lines("a", 300))
    assert not column(later, "app_log_count").any()
    assert len(set(column(later, "app_mean"))) == 1


def test_with_history_only_earlier_lengths_are_known(texts: TextVectors) -> None:
    requests = a_builder(texts, history=True).build([*lines("a", 3), *lines("b", 50)])
    counts = np.expm1(column(requests, "app_log_count"))
    for app in "ab":
        assert counts[requests.names == app] == pytest.approx(np.arange(20), abs=1e-3)


def test_earlier_builds_are_the_history_of_later_ones(texts: TextVectors) -> None:
    builder = a_builder(texts, history=True)
    builder.build([*lines("a", 3), *lines("b", 50)])
    later = builder.build([*lines("a", 3, count=1), *lines("b", 50, count=1)])
    means = dict(zip(later.names.tolist(), column(later, "app_mean").tolist(), strict=True))
    assert means["a"] < 2.5 < means["b"]


def test_users_have_their_own_length_history(texts: TextVectors) -> None:
    builder = a_builder(texts, history=True)
    builder.build([*lines("a", 3, user="brief"), *lines("a", 50, user="wordy")])
    later = builder.build([*lines("a", 3, 1, user="brief"), *lines("a", 50, 1, user="wordy")])
    by_user = dict(
        zip((line.user for line in later.lines), column(later, "user_mean"), strict=True)
    )
    assert by_user["brief"] < by_user["wordy"] - 1


def test_rows_slices_every_column(texts: TextVectors) -> None:
    whole = a_builder(texts, history=False).build([*lines("a", 3), *lines("b", 5)])
    part = whole.rows(slice(10, None))
    assert len(part) == 30
    assert part.names.tolist() == whole.names[10:].tolist()
    assert part.inputs.apps == whole.inputs.apps[10:]
    assert (part.inputs.text == whole.inputs.text[10:]).all()
