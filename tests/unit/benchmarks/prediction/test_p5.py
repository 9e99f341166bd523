"""P5's measures, on synthetic losses."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.p5.curve import ADAPTED_LINE, APP_QUANTILES, LINE, OURS, Judged, mean_by_line, ratio
from benchmarks.p5.plots import draw_curves
from benchmarks.p5.run import curve_rows, curve_targets


def judged(over: dict[str, float], seed: int = 1, rows: int = 300) -> Judged:
    """Losses of ours at a factor of the line's, by app."""
    line = np.random.default_rng(seed).uniform(0.1, 0.2, rows)
    names = np.array([[*over][row % len(over)] for row in range(rows)])
    factors = np.array([over[name] for name in names.tolist()])
    losses = {LINE: line, ADAPTED_LINE: 1.1 * line, APP_QUANTILES: 2 * line, OURS: factors * line}
    tau = dict.fromkeys(losses, 0.5)
    return Judged([str(row) for row in range(rows)], names, losses, 0.9, tau)


def test_ratio_has_an_interval_around_it() -> None:
    random = np.random.default_rng(1)
    theirs = {str(row): float(random.uniform(0.1, 0.2)) for row in range(400)}
    ours = {line: loss * float(random.normal(0.9, 0.3)) for line, loss in theirs.items()}
    over, low, high = ratio(ours, theirs)
    assert low < over < high
    assert over == pytest.approx(0.9, abs=0.05)
    assert high - low < 0.1


def test_losses_are_means_over_the_seeds_that_tested_a_line() -> None:
    first, second = judged({"a": 1.0}, seed=1), judged({"a": 1.0}, seed=2, rows=150)
    found = mean_by_line([first, second], LINE)
    assert found["3"] == pytest.approx((first.losses[LINE][3] + second.losses[LINE][3]) / 2)
    assert found["200"] == first.losses[LINE][200]


def test_ours_is_compared_with_the_better_line_by_app() -> None:
    pooled, *apps = curve_rows("words", 500, [judged({"a": 0.8, "b": 1.0})], full=0.1)
    assert pooled["ours/line"] == pytest.approx(0.9, abs=0.02)
    assert {row["app"]: row["ours/line"] for row in apps} == pytest.approx({"a": 0.8, "b": 1.0})


@pytest.mark.parametrize(
    ("over", "missed"),
    [
        ({"a": 0.9, "b": 1.005}, []),
        ({"a": 0.9, "b": 1.05}, ["words, 500 rows: apps significantly above the line by 1 %"]),
    ],
)
def test_an_app_above_the_line_is_a_missed_target(
    over: dict[str, float], missed: list[str]
) -> None:
    rows = list(curve_rows("words", 500, [judged(over)], full=None))
    found = [each.name for each in curve_targets("words", 500, rows) if not each.met]
    assert found == [f"{name}, at most" for name in missed]


def test_a_picture_has_both_kinds_of_lengths(tmp_path: Path) -> None:
    rows = [
        next(curve_rows(lengths, count, [judged({"a": 0.9})], full))
        for lengths, full in (("own", None), ("words", 0.1))
        for count in (200, 500)
    ]
    draw_curves(rows, tmp_path)
    assert (tmp_path / "P5-curves.png").read_bytes().startswith(b"\x89PNG")
