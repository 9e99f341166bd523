"""Traffic whose mix changes, and the errors, coverage and targets of two passes."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.harness.cpu_noise import CpuNoise
from benchmarks.learning.passes import Pass, PassName
from benchmarks.learning.plots import NAME, draw
from benchmarks.learning.rows import Passes, coverage, coverage_error, rows_of, targets
from benchmarks.learning.traffic import FIRST, MAX_TOKENS, SECOND, body, plan
from gateway.evaluation.corpus import CorpusLine
from gateway.quantiles import LEVELS, Floats

COUNT = 400
RUN = {
    "trigger": "operator",
    "state": "succeeded",
    "rows_read": 160,
    "samples": {"complete": 120},
    "seconds": 3.0,
    "activated": True,
    "pinball": {"new": 0.1, "line": 0.2},
}


def lines() -> list[CorpusLine]:
    return [
        CorpusLine(app=app, instruction="Do it.", input=f"{app} {number}", output="x")
        for app in (*FIRST, *SECOND, "code_gen")
        for number in range(COUNT)
    ]


def a_pass(*, learning: bool, median: float, p90: float, response_s: float, **given: Any) -> Pass:
    tokens = np.full(COUNT, 100.0)
    quantiles = np.tile([median] * 4 + [p90] * 2, (COUNT, 1))
    fields = {
        "name": PassName("lmaas" if learning else "fcfs", learning),
        "tokens": tokens,
        "quantiles": quantiles,
        "sources": ["model" if learning else "app"] * COUNT,
        "apps": ["grammar"] * COUNT,
        "response_s": np.full(COUNT, response_s),
        "by_policy": np.ones(COUNT, bool),
        "activated": [100] if learning else [],
        "runs": [RUN] if learning else [],
        "load": CpuNoise(0.0, 0.0),
    }
    return Pass(**{**fields, **given})


def passes(p90: float = 120.0) -> Passes:
    off = a_pass(learning=False, median=50.0, p90=p90, response_s=2.0)
    return Passes(off, a_pass(learning=True, median=80.0, p90=p90, response_s=1.0))


def test_mix_changes_in_the_middle() -> None:
    planned = plan(lines(), COUNT, seed=1, rate_s=2.0)
    early, late = (
        Counter(each.line.app in FIRST for each in half)
        for half in (planned[: COUNT // 2], planned[COUNT // 2 :])
    )
    assert 0.8 * COUNT / 2 < early[True] < COUNT / 2
    assert 0.8 * COUNT / 2 < late[False] < COUNT / 2
    assert {each.line.app for each in planned} == {*FIRST, *SECOND}


def test_plan_is_the_same_each_time_and_repeats_no_line() -> None:
    planned = plan(lines(), COUNT, seed=1, rate_s=2.0)
    assert planned == plan(lines(), COUNT, seed=1, rate_s=2.0)
    assert len({each.line.input for each in planned}) == COUNT
    assert planned[-1].at_s == pytest.approx(COUNT / 2.0, rel=0.3)
    assert all(each.at_s == 0 for each in plan(lines(), 5, seed=1))


def test_too_few_lines_are_refused() -> None:
    with pytest.raises(ValueError, match="too few lines"):
        plan(lines()[:10], COUNT, seed=1)


def test_body_has_the_instruction_and_the_seed() -> None:
    planned = plan(lines(), 1, seed=1)[0]
    sent = body("smollm2", planned)
    assert [each["role"] for each in sent["messages"]] == ["system", "user"]
    assert sent["seed"] == planned.seed
    assert sent["max_tokens"] == MAX_TOKENS


def quantiles(p90: list[float]) -> Floats:
    return np.array([[1.0] * 4 + [each] * 2 for each in p90])


def test_p90_at_the_limit_is_expected_to_cover_all() -> None:
    tokens = np.array([10.0, 30.0, MAX_TOKENS])
    assert len(LEVELS) == quantiles([20.0]).shape[1]
    some = quantiles([20.0, 20.0, MAX_TOKENS])
    assert coverage(tokens, some) == pytest.approx(2 / 3)
    assert coverage_error(tokens, some) == pytest.approx(2 / 3 - (0.9 + 0.9 + 1) / 3)
    assert coverage_error(tokens, quantiles([MAX_TOKENS] * 3)) == 0


def test_phases_begin_with_the_first_version_and_with_the_change() -> None:
    phases = [row for row in rows_of(passes(), 2.0) if "phase" in row]
    assert [row["requests"] for row in phases] == ["1 to 100", "101 to 200", "201 to 400"]
    assert phases[1]["log-RMSE off"] == pytest.approx(math.log(2))
    assert phases[1]["log-RMSE on"] == pytest.approx(math.log(100 / 80))
    assert phases[1]["ours/FCFS"] == pytest.approx(0.5)
    assert phases[1]["P90 covers on"] == 1.0


def test_targets_compare_requests_that_a_version_predicted() -> None:
    below_off, below_prior, off_nominal, response = targets(passes())
    assert below_off.value == pytest.approx(1 - math.log(1.25) / math.log(2))
    assert below_off.met
    assert below_prior.met
    assert off_nominal.value == pytest.approx(0.1)
    assert not off_nominal.met
    assert response.value == pytest.approx(0.5)
    assert response.met


def test_targets_are_missing_if_no_version_was_activated() -> None:
    never = a_pass(learning=True, median=80.0, p90=150.0, response_s=1.0, activated=[])
    values = [each.value for each in targets(Passes(passes().off, never))]
    assert values == [None, None, 0.0, None]


def test_rows_have_windows_runs_and_both_passes() -> None:
    rows = rows_of(passes(), 2.0)
    assert sum("phase" not in row and "log-RMSE on" in row for row in rows) == COUNT // 100
    assert [row["training run"] for row in rows if "training run" in row] == ["operator"]
    assert [row["pass"] for row in rows if "pass" in row] == [
        "fcfs, learning off",
        "lmaas, learning on",
    ]


def test_picture_is_drawn(tmp_path: Path) -> None:
    draw(passes(), tmp_path)
    assert (tmp_path / f"{NAME}.png").stat().st_size > 0
