"""The noise floor, the folds, and the rows of P1-own."""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
import pytest
from msgspec.structs import replace

from benchmarks.own_lengths.lengths_file import MAX_TOKENS, OwnLength, line_id
from benchmarks.own_lengths.measured_lines import FOLDS, folds, measured_lines
from benchmarks.own_lengths.noise_floor import (
    answer_pairs,
    noise_floors,
    way_to_floor,
)
from benchmarks.own_lengths.rows import (
    coverage_rows,
    error_rows,
    length_rows,
    natural_coverage,
    targets,
    way_rows,
)
from gateway.errors import InvalidRequest
from gateway.evaluation.arrivals import EvaluationRequests, RequestBuilder
from gateway.evaluation.corpus import CorpusLine
from gateway.evaluation.experiment import OURS, EvaluationOptions, EvaluationRun, evaluate, forecast
from gateway.evaluation.scoring import POOLED
from gateway.evaluation.sentences import SentenceEmbedder, Vectors
from gateway.evaluation.vectors import TextVectors

APP_LINES = 70
SPREAD = 0.3  # of log lengths about their expectation


class HashEmbedder(SentenceEmbedder):
    """Unit vectors that depend on the text, without the model's seconds."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        seeds = [int(sha256(text.encode()).hexdigest()[:8], 16) for text in texts]
        rows = np.stack([np.random.default_rng(seed).normal(size=384) for seed in seeds])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def own_lengths(lines: list[CorpusLine]) -> list[OwnLength]:
    """Ten tokens per word of input, with noise; the longest are cut off."""
    rng = np.random.default_rng(5)
    found = []
    for number, line in enumerate(lines):
        expected = 10 * len(line.input.split())
        for kind in ("sampled", "again", "greedy") if number % 3 == 0 else ("sampled",):
            tokens = min(round(expected * np.exp(rng.normal(0, SPREAD))), MAX_TOKENS)
            found.append(
                OwnLength(
                    line=line_id(line),
                    app=line.app,
                    split="train",
                    kind=kind,  # type: ignore[arg-type]
                    input_tokens=len(line.input.split()),
                    prompt_tokens=20,
                    answer_tokens=tokens,
                    finish="length" if tokens == MAX_TOKENS else "stop",
                    repeats=tokens == MAX_TOKENS,
                )
            )
    return found


@pytest.fixture(scope="module")
def lines() -> list[CorpusLine]:
    rng = np.random.default_rng(4)
    return [
        CorpusLine(
            app=app,
            instruction=f"do {app}",
            input=f"{number} " + "word " * int(rng.integers(1, 45)),
            output="done",
        )
        for app in ("one", "two")
        for number in range(APP_LINES)
    ]


@pytest.fixture(scope="module")
def requests(lines: list[CorpusLine]) -> EvaluationRequests:
    embedder = HashEmbedder(1, None, lambda _: None)
    builder = RequestBuilder(None, TextVectors(), embedder, history=False)
    return builder.build(measured_lines(lines, own_lengths(lines)))


@pytest.fixture(scope="module")
def run(requests: EvaluationRequests) -> EvaluationRun:
    options = EvaluationOptions(lengths="measured", baselines=True)
    embedder = HashEmbedder(1, None, lambda _: None)
    parts = [
        forecast(train, test, options, embedder, lambda _: None)
        for train, test in folds(requests, 2)
    ]
    return evaluate(parts, options)


def test_floor_is_the_spread_of_answers_given_the_request() -> None:
    rng = np.random.default_rng(6)
    expected = rng.uniform(3, 6, 4_000)
    answers = np.expm1(expected[:, None] + rng.normal(0, SPREAD, (4_000, 2)))
    floor = noise_floors({"one": answers})[POOLED]
    assert floor.floor == pytest.approx(SPREAD, rel=0.05)
    assert floor.second == pytest.approx(2**0.5 * SPREAD, rel=0.05)
    assert floor.low < SPREAD < floor.high


def test_only_lines_that_were_answered_twice_are_pairs(lines: list[CorpusLine]) -> None:
    pairs = answer_pairs(own_lengths(lines))
    assert {app: own.shape for app, own in pairs.items()} == {"one": (24, 2), "two": (23, 2)}
    assert [floor.pairs for floor in noise_floors(pairs).values()] == [24, 23, 47]
    assert noise_floors({}) == {}


def test_way_is_the_share_of_the_distance_to_the_floor() -> None:
    rng = np.random.default_rng(7)
    noise = rng.normal(0, 1, (5_000, 2))  # floor: 1
    expected = rng.normal(0, 2, (5_000, 1))
    simple, ours = expected + noise, expected / 2 + noise  # √5 and √2
    way, low, high = way_to_floor(ours, simple)
    assert way == pytest.approx((5**0.5 - 2**0.5) / (5**0.5 - 1), abs=0.03)
    assert low < way < high
    assert way_to_floor(noise, simple)[0] == pytest.approx(1, abs=0.03)


def test_every_request_is_tested_once_by_models_of_the_others(
    requests: EvaluationRequests,
) -> None:
    tested = []
    for train, test in folds(requests):
        assert not {line_id(line) for line in train.lines} & {line_id(line) for line in test.lines}
        assert np.ptp([(test.names == app).sum() for app in ("one", "two")]) <= 1
        tested += [line_id(line) for line in test.lines]
    assert sorted(tested) == sorted(line_id(line) for line in requests.lines)
    assert len(list(folds(requests))) == FOLDS


def test_cut_off_answers_are_censored(
    requests: EvaluationRequests, lines: list[CorpusLine]
) -> None:
    sampled = [each for each in own_lengths(lines) if each.kind == "sampled"]
    assert requests.censored.sum() == sum(each.cut_off for each in sampled) > 0
    assert (requests.tokens[requests.censored] == MAX_TOKENS).all()


def test_text_that_is_not_there_is_an_error(lines: list[CorpusLine]) -> None:
    with pytest.raises(InvalidRequest, match="1 of 140 answered lines are not in the texts"):
        measured_lines(lines[1:], own_lengths(lines))


def test_forecasts_are_scored_within_max_tokens(run: EvaluationRun) -> None:
    for each in run.forecasts.values():
        assert each.p90.max() <= MAX_TOKENS * (1 + 1e-9)
        assert each.mean.max() <= MAX_TOKENS
    assert run.natural[OURS].p90.max() > MAX_TOKENS


def test_cut_off_answer_above_a_quantile_is_not_covered_and_below_it_counts_in_part() -> None:
    tokens, quantile = np.array([10.0, 20.0, 40.0, 40.0]), np.full(4, 50.0)
    cut_off = np.array([False, False, True, True])
    assert natural_coverage(tokens, np.zeros(4, np.bool_), quantile) == 1
    assert natural_coverage(tokens, cut_off, np.full(4, 30.0)) == pytest.approx(0.5)
    several = np.array([10.0, 20.0, 40.0, 100.0])
    first_cut = np.array([False, True, False, False])
    # Kaplan and Meier: the cut-off answer's quarter goes to the two longer ones in equal parts.
    assert natural_coverage(several, first_cut, quantile) == pytest.approx(1 / 4 + 3 / 8)


def test_rows_compare_every_predictor_with_the_floor(
    run: EvaluationRun, lines: list[CorpusLine]
) -> None:
    lengths = own_lengths(lines)
    pairs = answer_pairs(lengths)
    errors = list(error_rows(run, noise_floors(pairs)))
    assert [row["app"] for row in errors] == ["one", "two", POOLED]
    assert all(row["noise floor"] < row["app median"] for row in errors)
    ways = list(way_rows(run, lengths))
    assert ways[0]["predictor"] == OURS
    assert ways[0]["way"] > 0.5  # lengths depend on the input
    coverage = list(coverage_rows(run))
    assert [row["app"] for row in coverage] == ["one", "two", POOLED]
    assert coverage[-1]["generated"] >= coverage[-1]["natural"]
    shares = [row["of cut off repeat"] for row in length_rows(run, lengths)]
    assert shares == [1, 1]


def test_missing_pairs_are_a_missed_target() -> None:
    coverage = [{"app": POOLED, "natural": 0.9}]
    good = [{"predictor": OURS, "way": 0.7}]
    assert [each.met for each in targets(good, coverage)] == [True, True, True]
    assert [each.met for each in targets([], coverage)] == [False, True, True]
    short = [{"app": POOLED, "natural": 0.8}]
    assert [each.met for each in targets(good, short)] == [True, False, True]


def test_line_without_answer_is_not_evaluated(lines: list[CorpusLine]) -> None:
    answered = own_lengths(lines[:10])
    assert len(measured_lines(lines, answered)) == 10
    greedy = [replace(each, kind="greedy") for each in answered[:1]]
    assert measured_lines(lines, greedy) == []
