"""P3: new apps, changed mixes of apps, rewritten prompts, and random lengths.

Lengths in words, no history. Versions, bias correction, calibration and monitor are the product's;
each outcome is learned before the next request is served. `train` lines are trained on, or arrive
if the version was not trained on them; errors are measured on `valid` lines.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from benchmarks.harness.paths import CACHE
from benchmarks.harness.report import Report, Row, Target
from benchmarks.p3.doubling import doubling_rows, doublings
from benchmarks.p3.new_app import new_app_rows, new_apps
from benchmarks.p3.plots import draw_doublings, draw_new_apps, draw_shuffled, draw_switches
from benchmarks.p3.shuffled import shuffled, shuffled_rows
from benchmarks.p3.switch import switch_rows, switches
from benchmarks.p3.targets import (
    doubling_targets,
    new_app_targets,
    shuffled_targets,
    switch_targets,
)
from benchmarks.p3.world import fit_version, make_version
from gateway.evaluation.arrivals import RequestBuilder
from gateway.evaluation.corpus import read_corpus
from gateway.evaluation.lengths import count_words
from gateway.evaluation.sentences import SentenceEmbedder
from gateway.evaluation.vectors import TextVectors

PARTS: Final = ("a", "b", "c", "d")


def run(data: Path, parts: Iterable[str], threads: int) -> None:
    """Run the given parts; a run of fewer than all does not replace the stored result."""
    selected = set(parts)
    partial = selected != set(PARTS)
    report = Report("P3", look=partial)
    rows: list[Row] = []
    targets: list[Target] = []
    corpus = read_corpus(data, data)
    report.say(f"reading {len(corpus.train)} + {len(corpus.test)} lines")
    embedder = SentenceEmbedder(threads, CACHE / "magnus", report.say)
    builder = RequestBuilder(count_words, TextVectors(), embedder, history=False)
    train, test = builder.build(corpus.train), builder.build(corpus.test)
    if "a" in selected:
        report.say("(a) fitting on all apps")
        full = fit_version(train, threads)
        new = list(new_apps(train, test, full, report.say, threads))
        rows += new_app_rows(new)
        targets += new_app_targets(new_app_rows(new))
        draw_new_apps(new, report.plots)
        report.write(rows, targets)
    if "b" in selected:
        switched = switches(train, test, report.say, threads)
        rows += switch_rows(switched)
        targets += switch_targets(switched)
        draw_switches(switched, report.plots)
        report.write(rows, targets)
    if selected & {"c", "d"}:
        report.say("(c), (d) fitting a version")
        version = make_version(train, threads)
    if "c" in selected:
        report.say("(c) one app's answers double")
        doubled = list(doublings(test, version))
        rows += doubling_rows(doubled)
        targets += doubling_targets(doubled)
        draw_doublings(doubled, report.plots)
        report.write(rows, targets)
    if "d" in selected:
        report.say("(d) lengths shuffled")
        shuffled_lengths = shuffled(test, version)
        rows += shuffled_rows(shuffled_lengths)
        targets += shuffled_targets(shuffled_lengths)
        draw_shuffled(shuffled_lengths, report.plots)
    report.conclude(rows, targets)
