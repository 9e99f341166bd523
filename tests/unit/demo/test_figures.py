"""What the demo's outcomes add up to, as figures, tables and picture."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from rich.console import Console
from rich.table import Table

from gateway.demo.figures import BatchFigures, Passes, mean_error, response_quantile
from gateway.demo.picture import draw
from gateway.demo.sending import Outcome
from gateway.demo.table import app_table, policy_table, summary
from gateway.demo.training import Learned

MakeOutcome: TypeAlias = Callable[..., Outcome]


def a_show(an_outcome: MakeOutcome) -> Passes:
    return Passes(
        before=[an_outcome(predicted=10, actual=50), an_outcome("diary", predicted=30, actual=30)],
        after=[an_outcome(predicted=44, actual=40), an_outcome("diary", predicted=20, actual=22)],
        fixed=[
            an_outcome(actual=40, response_s=4.0),
            an_outcome("diary", actual=22, response_s=1.0),
        ],
    )


def printed(table: Table) -> list[str]:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(table)
    return [" ".join(line.split()) for line in captured.get().splitlines()]


def test_error_counts_too_long_and_too_short_alike(an_outcome: MakeOutcome) -> None:
    outcomes = [an_outcome(predicted=4, actual=10), an_outcome(predicted=12, actual=10)]
    assert mean_error(outcomes) == 4


@pytest.mark.parametrize(("level", "expected"), [(0.05, 1.0), (0.5, 5.0), (0.9, 9.0), (1.0, 10.0)])
def test_quantile_is_the_least_time_that_enough_keep_to(
    an_outcome: MakeOutcome, level: float, expected: float
) -> None:
    outcomes = [an_outcome(response_s=float(s)) for s in (3, 1, 2, 5, 4, 10, 9, 8, 7, 6)]
    assert response_quantile(outcomes, level) == expected


def test_spread_leaves_batches_of_one_out(an_outcome: MakeOutcome) -> None:
    outcomes = [
        an_outcome(batch="a", actual=10),
        an_outcome(batch="a", actual=70),
        an_outcome(batch="a", actual=30),
        an_outcome(batch="alone", actual=90),
    ]
    assert BatchFigures.of(outcomes) == BatchFigures(count=2, mean_size=2.0, spread=60.0)


def test_batches_of_one_have_no_spread(an_outcome: MakeOutcome) -> None:
    assert BatchFigures.of([an_outcome()]).spread is None


def test_app_table_has_a_row_for_each_app_and_all(an_outcome: MakeOutcome) -> None:
    rows = printed(app_table(a_show(an_outcome)))
    assert "diary 1 30.0 30.0 0.0 22.0 20.0 2.0 1.00 1.00" in rows
    assert "spell 1 50.0 10.0 40.0 40.0 44.0 4.0 1.00 4.00" in rows
    assert "all apps 2 40.0 20.0 20.0 31.0 32.0 3.0 1.00 2.50" in rows


def test_policy_table_sets_both_policies_side_by_side(an_outcome: MakeOutcome) -> None:
    rows = printed(policy_table(a_show(an_outcome)))
    assert "lmaas 1 2.0 18.0 tokens 1.00 s 1.00 s" in rows
    assert "fixed 1 2.0 18.0 tokens 2.50 s 4.00 s" in rows


@pytest.mark.parametrize(("fixed_s", "told"), [(2.0, "-50%"), (0.5, "+100%")])
def test_summary_tells_whichever_policy_was_faster(
    an_outcome: MakeOutcome, fixed_s: float, told: str
) -> None:
    one = [an_outcome()]
    passes = Passes(one, one, [an_outcome(response_s=fixed_s)])
    assert told in summary(passes, Learned(rows=140, own_rows=140, activated=True))


@pytest.mark.parametrize(
    ("own_rows", "words"),
    [
        (403, "Having learned from 403 requests, predictions"),
        (5, "Having learned from 403 requests (398 of them not the demo's), predictions"),
    ],
)
def test_summary_counts_what_training_read(
    an_outcome: MakeOutcome, own_rows: int, words: str
) -> None:
    learned = Learned(rows=403, own_rows=own_rows, activated=True)
    assert summary(a_show(an_outcome), learned).startswith(words)


def test_picture_is_a_png_of_readme_width(an_outcome: MakeOutcome, tmp_path: Path) -> None:
    draw(a_show(an_outcome), tmp_path / "picture.any")
    content = (tmp_path / "picture.any").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert (int.from_bytes(content[16:20]), int.from_bytes(content[20:24])) == (1200, 500)
