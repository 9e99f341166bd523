"""P3's measures, on synthetic outcomes."""

from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from benchmarks.p3.doubling import Doubling, doubling_rows
from benchmarks.p3.new_app import OUTCOME_COUNTS, POOLED, TAUGHT_OUTCOMES, NewApp, new_app_rows
from benchmarks.p3.plots import draw_doublings, draw_new_apps, draw_shuffled, draw_switches
from benchmarks.p3.shuffled import ShuffledLengths, shuffled_rows
from benchmarks.p3.switch import MixChange, switch_rows
from benchmarks.p3.targets import (
    doubling_targets,
    new_app_targets,
    shuffled_targets,
    switch_targets,
)
from benchmarks.p3.world import (
    COVERAGE_WINDOW,
    ScoredRequests,
    first_rows_per_app,
    log_residuals,
    recovery,
    replay,
    rolling,
    stable_from,
)
from gateway.prediction.adaptation.adaptation import Adaptation
from gateway.prediction.expectation import expected_log

APP = UUID(int=1)


def stream(tokens: list[float]) -> ScoredRequests:
    count = len(tokens)
    scored = np.log(100) + np.tile([-0.4, -0.2, 0.0, 0.2, 0.4, 0.5], (count, 1))
    return ScoredRequests([APP] * count, np.full(count, 3.5), scored, np.array(tokens))


def new_app(app: str, first: float, after: float) -> NewApp:
    return NewApp(
        app=app,
        simple=np.array([1.0, -1.0]),
        first=np.array([first, -first]),
        full=np.array([0.5, -0.5]),
        after={count: np.array([[after, -after]]) for count in OUTCOME_COUNTS},
        retrained=np.array([[0.5, 0.5]]),
        covered=0.9,
        on_the_way=0.8,
    )


def a_switch(retrained: float) -> MixChange:
    return MixChange("seven", 120, np.full(1_400, 0.9), 0.4, 0.5, retrained, 0.7)


def a_doubling(back_after: int | None, followed: int | None) -> Doubling:
    return Doubling("detox", back_after, followed, np.full(901, 0.9), np.zeros(1_000), 0.5, 0.5)


def test_each_request_is_served_before_its_outcome_is_learned() -> None:
    served = replay(Adaptation(), stream([100.0, 400.0, 400.0]))
    assert served.median[0] == pytest.approx(100)
    assert served.median[1] < 110
    assert served.median[2] > 110
    assert served.covered.tolist() == [True, False, False]


def test_residuals_before_any_outcome_are_those_of_the_version() -> None:
    scored = stream([100.0, 50.0])
    expected = expected_log(np.exp(scored.scored))
    assert log_residuals(Adaptation(), scored) == pytest.approx(np.log1p(scored.tokens) - expected)


def test_rolling_means_are_those_of_every_window() -> None:
    values = np.random.default_rng(1).normal(size=30)
    assert rolling(values, 7) == pytest.approx([values[i : i + 7].mean() for i in range(24)])


@pytest.mark.parametrize(
    ("within", "place"),
    [([True, True], 0), ([True, False, True], 2), ([False, True, True], 1), ([True, False], None)],
)
def test_stable_from_follows_the_last_false_value(within: list[bool], place: int | None) -> None:
    assert stable_from(np.array(within)) == place


def test_recovery_is_when_the_window_has_passed_the_failures() -> None:
    covered = np.ones((10, 400))
    covered[0] = 0.0  # 90 % at each outcome
    covered[:, :50] = 0.0
    after, means = recovery(covered)
    assert len(means) == 301
    assert after == 50 + COVERAGE_WINDOW - 3  # 97 outcomes at 90 % and 3 at none: 87.3 %


def test_first_rows_per_app() -> None:
    assert first_rows_per_app(np.array(list("abababba")), 2).tolist() == [0, 1, 2, 3]


def test_new_app_targets_count_apps_that_miss() -> None:
    rows = new_app_rows([new_app("detox", 0.9, 0.5), new_app("grammar", 1.1, 0.7)])
    assert [row["new app"] for row in rows] == ["detox", "grammar", POOLED]
    assert rows[1]["first/input length"] == pytest.approx(1.1)
    assert rows[2][f"after {TAUGHT_OUTCOMES}/full"] == pytest.approx(
        np.sqrt((0.25 + 0.49) / 2) / 0.5
    )
    found = {each.name: each for each in new_app_targets(rows)}
    assert found["(a) first request over input length, apps above 1, at most"].value == 1
    assert found["(a) retrained with 50 rows over full training, pooled, at most"].met


def test_missing_recovery_misses_its_target() -> None:
    found = list(doubling_targets([a_doubling(None, 20), a_doubling(120, None)]))
    assert [each.met for each in found] == [False, False, True]
    assert [each.met for each in switch_targets([a_switch(0.6), a_switch(0.69)])] == [
        True,
        False,
        True,
        True,
    ]
    unnoticed = ShuffledLengths([300, None], 0, 0.6, np.zeros(3))
    assert [each.met for each in shuffled_targets(unnoticed)] == [False, True]


def test_pictures_are_drawn_of_all_parts(tmp_path: Path) -> None:
    draw_new_apps([new_app("detox", 0.9, 0.5), new_app("assistant", 0.8, 0.6)], tmp_path)
    draw_switches([a_switch(0.6), a_switch(0.7)], tmp_path)
    draw_doublings([a_doubling(120, 20)], tmp_path)
    draw_shuffled(ShuffledLengths([300], 0, 0.6, np.full(2_500, 0.5)), tmp_path)
    assert len(list(tmp_path.glob("P3-*.png"))) == 4


def test_every_part_has_rows() -> None:
    assert switch_rows([a_switch(0.6)])[0]["retrained/full"] == pytest.approx(0.6 / 0.7)
    assert doubling_rows([a_doubling(120, 20)])[0]["coverage back after"] == 120
    assert (
        shuffled_rows(ShuffledLengths([300, 310], 0, 0.6, np.zeros(3)))[0]["noticed after, most"]
        == 310
    )
