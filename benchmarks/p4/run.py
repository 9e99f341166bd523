"""P4: which of two prompts gets the longer answer, against published scores on the same splits.

Ours is trained on the training rows of a split as in production and ranks test rows by their
predicted median. Coverage is that of P90 without online outcomes, from the calibration that the
version starts with, and with them: each test row's outcome is learned before the next.
"""

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Final

import numpy as np

from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.p4.splits import Split, draw_split, pair_accuracy, read_prompts, read_splits
from gateway.evaluation.arrivals import EvaluationRequests, RequestBuilder
from gateway.evaluation.corpus import CorpusLine
from gateway.evaluation.ours import ProductModel, serve
from gateway.evaluation.sentences import SentenceEmbedder
from gateway.evaluation.vectors import TextVectors
from gateway.prediction.adaptation.adaptation import Adaptation
from gateway.prediction.training.scorecard import covered, kendall_tau, mean

FURTHER_SEEDS: Final = (4, 5, 6, 7, 8)
MIN_PAIR_ACCURACY: Final = 0.75
MIN_TAU: Final = 0.27
COVERAGE_RANGE: Final = (0.88, 0.92)


def run(data: Path, threads: int) -> None:
    """Measure on all splits; the folder of texts has the prompts in `oasst1`."""
    report = Report("P4", look=False)
    folder = data / "oasst1"
    lines, splits = read_prompts(folder), read_splits(folder)
    embedder = SentenceEmbedder(threads, None, report.say)
    requests = _in_order(RequestBuilder(None, TextVectors(), embedder, history=False), lines)
    tokens = requests.tokens.astype(np.int64)
    every = [*splits, *(draw_split(tokens, seed) for seed in FURTHER_SEEDS)]
    rows = []
    for split in every:
        report.say(f"split {split.seed}")
        rows.append(split_row(split, requests, threads))
        report.write(rows, [])
    report.conclude([*rows, *mean_rows(rows)], targets(rows))


def _in_order(builder: RequestBuilder, lines: list[CorpusLine]) -> EvaluationRequests:
    """The requests in the order of the lines, to which the splits' row numbers refer."""
    built = builder.build(lines)
    place = {id(line): number for number, line in enumerate(built.lines)}
    return built.rows(np.array([place[id(line)] for line in lines]))


def split_row(split: Split, requests: EvaluationRequests, threads: int) -> Row:
    """Ours, the published scores and the prompt's length, on one split."""
    train, test = (requests.rows(np.array(rows)) for rows in (split.train, split.test))
    model, start = ProductModel(threads).fitted(train)
    predicted = model.predict(test.inputs)
    static, online = (
        serve(predicted, test, Adaptation(train.inputs.apps, start), learn=learn)
        for learn in (False, True)
    )
    tokens = test.tokens.astype(np.int64)
    published = split.published_long
    return {
        "seed": split.seed,
        "test rows": len(test),
        "pair accuracy": pair_accuracy(tokens, static.median),
        "published": None if published is None else pair_accuracy(tokens, np.array(published)),
        "prompt length": pair_accuracy(tokens, test.inputs.log_uil),
        "τ": kendall_tau(test.tokens, static.median),
        "coverage": mean(covered(test.tokens, static.p90).astype(np.float64)),
        "coverage online": mean(covered(test.tokens, online.p90).astype(np.float64)),
    }


def mean_rows(rows: list[Row]) -> Iterator[Row]:
    """Means over the splits with published scores, and over all."""
    for name, own in (
        ("mean, published", [row for row in rows if row["published"] is not None]),
        ("mean, all", rows),
    ):
        numbers = [key for key in own[0] if all(row[key] is not None for row in own)]
        yield {
            key: fmean(row[key] for row in own) if key in numbers else None for key in own[0]
        } | {"seed": name}


def targets(rows: list[Row]) -> list[Target]:
    """Targets of the means."""
    shared, every = mean_rows(rows)
    return [
        target("pair accuracy, published splits", shared["pair accuracy"], MIN_PAIR_ACCURACY),
        target("τ, published splits", shared["τ"], MIN_TAU),
        *(
            bounded
            for name in ("coverage", "coverage online")
            for bounded in (
                target(name, every[name], COVERAGE_RANGE[0]),
                target(name, every[name], COVERAGE_RANGE[1], "at most"),
            )
        ),
    ]
