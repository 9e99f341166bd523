import numpy as np
import pytest

from gateway.evaluation.arrivals import EvaluationRequests, RequestBuilder
from gateway.evaluation.corpus import CorpusLine, MeasuredLength
from gateway.evaluation.peers import PEERS, peers
from gateway.evaluation.sentences import SentenceEmbedder
from gateway.evaluation.vectors import TextVectors


def requests(lengths: list[tuple[str, int, int]]) -> EvaluationRequests:
    lines = [
        CorpusLine(
            app=app,
            instruction="",
            input=f"text {number}",
            output="x",
            measured=MeasuredLength(
                input_tokens=prompt, prompt_tokens=prompt, answer_tokens=answer, max_tokens=9_000
            ),
        )
        for number, (app, prompt, answer) in enumerate(lengths)
    ]
    embedder = SentenceEmbedder(1, None, lambda _: None)
    return RequestBuilder(None, TextVectors(), embedder, history=False).build(lines)


def test_each_rule_gives_its_number() -> None:
    train = requests([("a", 4, answer) for answer in range(1, 12)] + [("b", 40, 500)] * 5)
    test = requests([("a", 5, 3), ("b", 60, 700), ("c", 1_000, 9)])
    found = {name: forecast.median for name, forecast in peers(train, test)}
    assert tuple(found) == PEERS
    order = [test.names.tolist().index(app) for app in "abc"]
    prompts = np.array([5, 60, 1_000])
    assert found["1.5 times the prompt"][order] == pytest.approx(1.5 * prompts, rel=1e-4)
    assert found["constant 4,096"] == pytest.approx(4_096)
    every = np.concatenate((np.arange(1, 12), [500] * 5))
    assert found["histogram, mean"][order] == pytest.approx([6.0, 500.0, every.mean()])
    assert set(np.round(found["histogram, drawn"])) <= set(every.tolist())
    assert found["p50 of the app"][order] == pytest.approx([6.0, 500.0, np.median(every)])
    assert found["p90 of the app"][order][:2] == pytest.approx([10.0, 500.0])
