"""Statistics, tables and plots of the demo's results."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from rich.console import Console
from rich.table import Table

from gateway.demo.figures import BatchStatistics, DemoPasses, mean_error, response_quantile
from gateway.demo.picture import draw
from gateway.demo.sending import DemoResult
from gateway.demo.table import app_table, policy_table, summary
from gateway.demo.training import TrainingResult

MakeResult: TypeAlias = Callable[..., DemoResult]


def three_passes(make_result: MakeResult) -> DemoPasses:
    return DemoPasses(
        before=[
            make_result(predicted=10, actual=50),
            make_result("diary", predicted=30, actual=30),
        ],
        after=[make_result(predicted=44, actual=40), make_result("diary", predicted=20, actual=22)],
        fixed=[
            make_result(actual=40, response_s=4.0),
            make_result("diary", actual=22, response_s=1.0),
        ],
    )


def printed(table: Table) -> list[str]:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(table)
    return [" ".join(line.split()) for line in captured.get().splitlines()]


def test_error_is_absolute(make_result: MakeResult) -> None:
    results = [make_result(predicted=4, actual=10), make_result(predicted=12, actual=10)]
    assert mean_error(results) == 4


@pytest.mark.parametrize(("level", "expected"), [(0.05, 1.0), (0.5, 5.0), (0.9, 9.0), (1.0, 10.0)])
def test_quantile_is_by_nearest_rank(
    make_result: MakeResult, level: float, expected: float
) -> None:
    results = [make_result(response_s=float(s)) for s in (3, 1, 2, 5, 4, 10, 9, 8, 7, 6)]
    assert response_quantile(results, level) == expected


def test_spread_ignores_batches_of_one(make_result: MakeResult) -> None:
    results = [
        make_result(batch="a", actual=10),
        make_result(batch="a", actual=70),
        make_result(batch="a", actual=30),
        make_result(batch="alone", actual=90),
    ]
    assert BatchStatistics.of(results) == BatchStatistics(count=2, mean_size=2.0, spread=60.0)


def test_batches_of_one_have_no_spread(make_result: MakeResult) -> None:
    assert BatchStatistics.of([make_result()]).spread is None


def test_app_table_has_a_row_for_each_app_and_all(make_result: MakeResult) -> None:
    rows = printed(app_table(three_passes(make_result)))
    assert "diary 1 30.0 30.0 0.0 22.0 20.0 2.0 1.00 1.00" in rows
    assert "spell 1 50.0 10.0 40.0 40.0 44.0 4.0 1.00 4.00" in rows
    assert "all apps 2 40.0 20.0 20.0 31.0 32.0 3.0 1.00 2.50" in rows


def test_policy_table_has_a_row_for_each_policy(make_result: MakeResult) -> None:
    rows = printed(policy_table(three_passes(make_result)))
    assert "lmaas 1 2.0 18.0 tokens 1.00 s 1.00 s" in rows
    assert "fixed 1 2.0 18.0 tokens 2.50 s 4.00 s" in rows


@pytest.mark.parametrize(("fixed_s", "change"), [(2.0, "-50%"), (0.5, "+100%")])
def test_summary_gives_the_change_of_response_time_in_both_directions(
    make_result: MakeResult, fixed_s: float, change: str
) -> None:
    one = [make_result()]
    passes = DemoPasses(one, one, [make_result(response_s=fixed_s)])
    assert change in summary(passes, TrainingResult(rows=140, own_rows=140, activated=True))


@pytest.mark.parametrize(
    ("own_rows", "words"),
    [
        (403, "After training on 403 requests, predictions"),
        (5, "After training on 403 requests (398 of them not the demo's), predictions"),
    ],
)
def test_summary_counts_what_training_read(
    make_result: MakeResult, own_rows: int, words: str
) -> None:
    training = TrainingResult(rows=403, own_rows=own_rows, activated=True)
    assert summary(three_passes(make_result), training).startswith(words)


def test_picture_is_a_png_of_readme_width(make_result: MakeResult, tmp_path: Path) -> None:
    draw(three_passes(make_result), tmp_path / "picture.any")
    content = (tmp_path / "picture.any").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert (int.from_bytes(content[16:20]), int.from_bytes(content[20:24])) == (1200, 500)
