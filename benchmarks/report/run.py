"""Draws the pictures of E1 and E4, and writes docs/report.md."""

from pathlib import Path

from benchmarks.harness.paths import PLOTS, RESULTS
from benchmarks.harness.report import read_results
from benchmarks.report.page import PAGE, page
from benchmarks.report.plots import draw


def publish() -> list[Path]:
    """Draw and write what the committed results say; the paths written."""
    results = read_results(RESULTS)
    drawn = list(draw(results, PLOTS))
    PAGE.write_text(page(results, PLOTS))
    return [*drawn, PAGE]
