"""P1-own: the length predictor on the lengths of a served model's own answers.

Cross-validated: every answer is predicted once, by models trained on the other four fifths. An
answer that was cut off is censored, as in the product: training imputes its natural length, and
calibration takes it as a lower bound. Scored is what is generated: forecasts are limited to
max_tokens, as they are when they are served and when the product judges a version.
"""

from pathlib import Path
from typing import Final

from benchmarks.harness.paths import CACHE
from benchmarks.harness.report import Report, Row
from benchmarks.own_lengths.lengths_file import read_lengths
from benchmarks.own_lengths.measured_lines import folds, measured_lines
from benchmarks.own_lengths.noise_floor import answer_pairs, noise_floors
from benchmarks.own_lengths.rows import (
    coverage_rows,
    error_rows,
    floor_rows,
    length_rows,
    targets,
    way_rows,
)
from benchmarks.p1.rows import overall_rows
from gateway.evaluation.arrivals import RequestBuilder
from gateway.evaluation.corpus import read_lines
from gateway.evaluation.experiment import EvaluationOptions, evaluate, forecast
from gateway.evaluation.plots import draw
from gateway.evaluation.sentences import SentenceEmbedder
from gateway.evaluation.vectors import TextVectors

FIGURE: Final = "P1-own"


def run(data: Path, threads: int) -> None:
    """Evaluate on the committed lengths; the texts are those of the folder."""
    report = Report(FIGURE, look=False)
    lengths = read_lengths()
    lines = measured_lines(read_lines(data), lengths)
    report.say(f"reading {len(lines)} texts")
    embedder = SentenceEmbedder(threads, CACHE / "magnus", report.say)
    requests = RequestBuilder(None, TextVectors(), embedder, history=False).build(lines)
    options = EvaluationOptions(lengths="measured", baselines=True, threads=threads)
    found = evaluate(
        [forecast(train, test, options, embedder, report.say) for train, test in folds(requests)],
        options,
    )
    floors = noise_floors(answer_pairs(lengths))
    ways: list[Row] = list(way_rows(found, lengths))
    coverage = list(coverage_rows(found))
    rows = [
        *overall_rows(found, "off"),
        *error_rows(found, floors),
        *ways,
        *floor_rows(floors),
        *coverage,
        *length_rows(found, lengths),
    ]
    draw(found, report.plots, f"{FIGURE}-")
    report.conclude(rows, targets(ways, coverage))
