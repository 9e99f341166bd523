"""S3's lengths, measures, rows and targets."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness.report import rows_table
from benchmarks.s3.cells import (
    CONTENDERS,
    CONTEXT_TOKENS,
    FIXED,
    MODELS,
    PEAK,
    VARIED,
    Cell,
    RequestLengths,
    ReservationMeasures,
    case,
    engine_of,
    mean_over,
    requests,
    reservation_measures,
    spread_of,
)
from benchmarks.s3.plots import draw
from benchmarks.s3.rows import over_maximum, rows_of, targets
from gateway.quantiles import LEVELS, MEDIAN
from gateway.replay.comparison import compare
from gateway.replay.workload.predictions import kendall_tau


def some_measures(
    in_flight: float = 70.0, tokens_s: float = 1_000.0, kv_use: float = 0.9
) -> ReservationMeasures:
    return ReservationMeasures(
        in_flight=in_flight,
        tokens_s=tokens_s,
        kv_use=kv_use,
        preempted=0.001,
        recomputed=0.0,
        lost=0.0,
        unanswered=0,
    )


def a_cell(
    model: str = "llama-13b",
    lengths: RequestLengths = FIXED,
    ours: ReservationMeasures | None = None,
) -> Cell:
    found = {each.name: some_measures() for each in CONTENDERS}
    found["maximum"] = some_measures(in_flight=10.0)
    found[PEAK] = ours or some_measures()
    return Cell(key=(lengths.name, model), seed=0, rate_s=float("inf"), measured=found)


@pytest.mark.parametrize("error", [0.1, 0.25, 0.5])
def test_medians_are_wrong_by_the_stated_error(error: float) -> None:
    found = requests(RequestLengths(name="fixed", error=error, answer=400), 20_000, seed=3)
    wrong = np.abs(found.quantiles[:, MEDIAN] - 400).mean() / 400
    assert wrong == pytest.approx(error, rel=0.03)


def test_quantiles_of_fixed_lengths_are_calibrated() -> None:
    found = requests(FIXED, 20_000, seed=3)
    covered = (found.generation_tokens[:, None] <= found.quantiles).mean(axis=0)
    assert covered == pytest.approx(LEVELS, abs=0.01)


def test_varied_lengths_fit_the_context_and_have_the_given_tau() -> None:
    found = requests(VARIED, 5_000, seed=3)
    found.check()
    assert (found.prompt_tokens + found.generation_tokens).max() <= CONTEXT_TOKENS
    assert kendall_tau(found.quantiles[:, MEDIAN], found.generation_tokens) == pytest.approx(
        0.7, abs=0.02
    )


def test_no_error_is_no_spread() -> None:
    assert spread_of(0.0) == pytest.approx(0.0, abs=1e-9)


def test_mean_over_time_holds_values_until_the_next() -> None:
    times_s, values = np.array([0.0, 1.0, 3.0, 4.0]), np.array([5.0, 10.0, 20.0, 99.0])
    assert mean_over(times_s, values, 0.5, 4.0) == pytest.approx((2.5 + 20 + 20) / 3.5)


def test_larger_models_leave_less_memory() -> None:
    pages = [engine_of(model).shape.pages for model in MODELS]
    assert pages == sorted(pages, reverse=True)
    assert pages[-1] * 16 >= CONTEXT_TOKENS


def test_targets_look_at_the_worst_model() -> None:
    cells = [a_cell(), a_cell("llama-33b", ours=some_measures(in_flight=55.0, kv_use=0.8))]
    verdicts = {each.name: each for each in targets(cells)}
    assert verdicts["fixed: in flight over the maximum's, at least"].value == pytest.approx(5.5)
    assert not verdicts["fixed: KV use, at least"].met
    assert verdicts["fixed: tokens/s over the oracle's, at least"].met
    assert not verdicts["varied: KV use, at least"].met  # it was not measured


def test_rows_compare_every_contender_with_the_maximum() -> None:
    rows = list(rows_of([a_cell()]))
    assert [row["reserved"] for row in rows] == [each.name for each in CONTENDERS]
    assert over_maximum([a_cell()], PEAK).mean == pytest.approx(7)
    assert "| fixed | llama-13b |" in rows_table(rows)


def test_cell_replays_every_contender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.s3.cells.MIN_REQUESTS", 300)
    (done,) = compare([case("llama-33b", FIXED, seed=0, turnovers=1)], reservation_measures)
    assert list(done.measured) == [each.name for each in CONTENDERS]
    assert done.measured["maximum"].in_flight == pytest.approx(2, abs=0.1)
    assert sum(each.unanswered for each in done.measured.values()) == 0


def test_plot_is_drawn(tmp_path: Path) -> None:
    draw([a_cell(model, lengths) for model in MODELS for lengths in (FIXED, VARIED)], tmp_path)
    assert (tmp_path / "S3-reserved.png").exists()
