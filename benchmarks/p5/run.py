"""P5: how well a version predicts that was trained on few rows, against a line per app.

Rows are drawn at random from the texts' training lines and from SmolLM2's own answers; tested are
valid lines, and the answers that were not drawn. Versions are fitted, weighed, calibrated and
adapted as in production. The line is that of P1, as it is and adapted by each outcome as ours is;
ours is compared with the better of both.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.harness.paths import CACHE
from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.own_lengths.lengths_file import read_lengths
from benchmarks.own_lengths.measured_lines import measured_lines
from benchmarks.p5.curve import (
    ADAPTED_LINE,
    APP_QUANTILES,
    LINE,
    OURS,
    Draw,
    Judged,
    judge,
    mean_by_line,
    ratio,
)
from benchmarks.p5.plots import draw_curves
from gateway.evaluation.arrivals import EvaluationRequests, RequestBuilder
from gateway.evaluation.corpus import read_corpus, read_lines
from gateway.evaluation.lengths import TokenCounter, count_words
from gateway.evaluation.sentences import SentenceEmbedder
from gateway.evaluation.vectors import TextVectors

SEEDS: Final = 3
TEST_ROWS: Final = 2_000
TEXT_ROWS: Final = (200, 500, 1_000, 3_000, 10_000)
OWN_ROWS: Final = (200, 500, 1_000)
TEXTS: Final = "words"
OWN: Final = "SmolLM2's own"
MAX_OVER_LINE: Final = 1.01


def run(data: Path, most: int, threads: int) -> None:
    """Measure with up to `most` rows; with fewer than the figure's it is a quick look."""
    report = Report("P5", look=most < max(TEXT_ROWS))
    texts = TextVectors()

    def builder(counted: TokenCounter | None) -> RequestBuilder:
        """Each with its own embedder: the cache is of all texts that one embeds together."""
        embedder = SentenceEmbedder(threads, CACHE / "magnus", report.say)
        return RequestBuilder(counted, texts, embedder, history=False)

    rows: list[Row] = []
    targets: list[Target] = []
    own = builder(None).build(measured_lines(read_lines(data), read_lengths()))
    corpus, by_words = read_corpus(data, data), builder(count_words)
    train, test = by_words.build(corpus.train), by_words.build(corpus.test)
    test = test.rows(np.sort(np.random.default_rng(0).permutation(len(test))[:TEST_ROWS]))
    for lengths, counts, draw, every in (
        (OWN, OWN_ROWS, _of_one(own), None),
        (TEXTS, TEXT_ROWS, _of_two(train, test), (train, test)),
    ):
        full = None
        if every is not None and most >= max(counts):
            report.say(f"{lengths}: full training")
            full = float(judge(*every, threads).losses[OURS].mean())
        for count in (count for count in counts if count <= most):
            report.say(f"{lengths}: {count} rows")
            judged = [judge(*draw(count, seed), threads) for seed in range(SEEDS)]
            found = list(curve_rows(lengths, count, judged, full))
            rows += found
            targets += curve_targets(lengths, count, found)
            report.write(rows, targets)
    draw_curves([row for row in rows if "coverage" in row], report.plots)
    report.conclude(rows, targets)


def curve_rows(lengths: str, count: int, judged: list[Judged], full: float | None) -> Iterator[Row]:
    """A row for all apps, and one for each."""
    means = {
        name: float(np.mean([each.losses[name].mean() for each in judged]))
        for name in (OURS, LINE, ADAPTED_LINE, APP_QUANTILES)
    }
    better = min((LINE, ADAPTED_LINE), key=means.__getitem__)
    over, low, high = ratio(mean_by_line(judged, OURS), mean_by_line(judged, better))
    yield {
        "lengths": lengths,
        "rows": count,
        **means,
        "full training": full,
        "ours/line": over,
        "low": low,
        "high": high,
        "coverage": float(np.mean([each.coverage for each in judged])),
        "τ": float(np.mean([each.tau[OURS] for each in judged])),
        "τ of the line": float(np.mean([each.tau[better] for each in judged])),
    }
    for app in sorted({name for each in judged for name in each.names.tolist()}):
        over, low, high = ratio(mean_by_line(judged, OURS, app), mean_by_line(judged, better, app))
        yield {
            "lengths": lengths,
            "rows": count,
            "app": app,
            "ours/line": over,
            "low": low,
            "high": high,
        }


def curve_targets(lengths: str, count: int, rows: list[Row]) -> Iterator[Target]:
    """Targets of one number of rows: pooled, and the apps that are surely above the line."""
    pooled, *apps = rows
    name = f"{lengths}, {count:,} rows"
    yield target(f"{name}: pinball over the line's", pooled["ours/line"], MAX_OVER_LINE, "at most")
    above = sum(row["low"] > MAX_OVER_LINE for row in apps)
    yield target(f"{name}: apps significantly above the line by 1 %", above, 0, "at most")


def _of_two(train: EvaluationRequests, test: EvaluationRequests) -> Draw:
    def draw(count: int, seed: int) -> tuple[EvaluationRequests, EvaluationRequests]:
        drawn = np.random.default_rng(seed).permutation(len(train))[:count]
        return train.rows(drawn), test

    return draw


def _of_one(requests: EvaluationRequests) -> Draw:
    def draw(count: int, seed: int) -> tuple[EvaluationRequests, EvaluationRequests]:
        order = np.random.default_rng(seed).permutation(len(requests))
        return requests.rows(order[:count]), requests.rows(order[count:])

    return draw
