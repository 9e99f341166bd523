"""The figure `form`: lines answered in several forms, and predictions with and without them."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.form.mixed_lines import FOLDS, folds, mixed_lines, without_forms
from benchmarks.form.run import length_rows, offered_row, side_rows, targets
from benchmarks.form.sides import HISTORY, by_history
from benchmarks.own_lengths.lengths_file import Kind, OwnLength, line_id
from gateway.errors import InvalidRequest
from gateway.evaluation.arrivals import EvaluationRequests, RequestBuilder
from gateway.evaluation.corpus import CorpusLine
from gateway.evaluation.sentences import SentenceEmbedder, Vectors
from gateway.evaluation.vectors import TextVectors

MEDIANS: dict[Kind, int] = {"sampled": 150, "json": 40, "tool": 20, "offered": 150}


class NoSentences(SentenceEmbedder):
    """Gives no text an embedding, without the model's seconds."""

    def __init__(self) -> None:
        super().__init__(1, None, print)

    def embed(self, texts: Sequence[str]) -> Vectors:
        return np.full((len(texts), 384), np.nan, dtype=np.float32)


@pytest.fixture(scope="module")
def texts() -> list[CorpusLine]:
    return [
        CorpusLine(app=app, instruction="do", input=f"number {number}", output="x")
        for app in ("one", "two")
        for number in range(60)
    ]


@pytest.fixture(scope="module")
def lengths(texts: list[CorpusLine]) -> list[OwnLength]:
    random = np.random.default_rng(1)
    return [
        OwnLength(
            line=line_id(line),
            app=line.app,
            split="train",
            kind=kind,
            input_tokens=2,
            prompt_tokens=10,
            answer_tokens=round(median * np.exp(random.normal(0, 0.3))),
            finish="tool_calls" if kind == "tool" else "stop",
        )
        for line in texts
        for kind, median in MEDIANS.items()
    ]


@pytest.fixture(scope="module")
def requests(texts: list[CorpusLine], lengths: list[OwnLength]) -> EvaluationRequests:
    return _requests(mixed_lines(texts, lengths))


def _requests(lines: list[CorpusLine]) -> EvaluationRequests:
    return RequestBuilder(None, TextVectors(), NoSentences(), history=False).build(lines)


def test_lines_without_an_answer_of_each_form_are_left_out(
    texts: list[CorpusLine], lengths: list[OwnLength]
) -> None:
    fewer = [each for each in lengths if each.kind != "tool" or each.app == "one"]
    found = Counter((line.app, line.form) for line in mixed_lines(texts, fewer))
    assert found == {("one", "free"): 60, ("one", "json"): 60, ("one", "tool"): 60}
    with pytest.raises(InvalidRequest, match="own-lengths"):
        mixed_lines(texts, [each for each in lengths if each.kind != "tool"])


def test_answers_to_a_text_are_in_the_same_fold(requests: EvaluationRequests) -> None:
    tested = [test for _, test in folds(requests)]
    assert (len(tested), sum(map(len, tested))) == (FOLDS, len(requests))
    for test in tested:
        forms_of = Counter(line_id(line) for line in test.lines)
        assert set(forms_of.values()) == {3}


def test_history_that_knows_forms_predicts_better_and_covers_each(
    requests: EvaluationRequests,
) -> None:
    forecasts = by_history(requests), by_history(without_forms(requests))
    rows = list(side_rows(HISTORY, requests, *forecasts))
    assert [row["form"] for row in rows] == ["free", "json", "tool", "all"]
    assert rows[-1]["ratio"] < 0.6
    assert all(row["coverage"] > 0.8 for row in rows)
    assert [each.met for each in targets(rows) if "pinball" in each.name] == [True]


def test_answers_with_a_tool_offered_are_judged_apart(
    texts: list[CorpusLine], lengths: list[OwnLength]
) -> None:
    apart = mixed_lines(texts, lengths, {"sampled": "free", "offered": "tool"})
    row = offered_row(_requests(apart))
    assert row["ratio"] == pytest.approx(1, abs=0.1)
    medians = {row["kind"]: row["median"] for row in length_rows(lengths)}
    assert medians == pytest.approx(MEDIANS, rel=0.1)
