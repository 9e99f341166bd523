"""B1 in replay: groups save all that can be saved, and counts are those of the real engine."""

import msgspec
import pytest

from benchmarks.b1.live_run import KV_TOKENS
from benchmarks.b1.replay_cells import optimum, replay_cell
from benchmarks.b1.replay_counts import compared, counts_target, live_cell
from benchmarks.b1.replay_run import count_rows, rows_of, targets
from benchmarks.b1.run import PARTS, complete
from benchmarks.harness.paths import RESULTS
from benchmarks.harness.report import Result, Row


@pytest.mark.parametrize("degree", [2, 16])
def test_groups_save_the_optimum_though_few_lines_fit(degree: int) -> None:
    cell = replay_cell(64, degree, 8_192)
    assert cell.saved(cell.groups) == pytest.approx(optimum(degree), abs=1e-12)
    assert cell.saved(cell.arrival) < cell.saved(cell.groups)
    assert cell.groups.makespan_s < cell.arrival.makespan_s
    assert {row["part"] for row in rows_of([cell])} == {"replay"}
    assert all(bound.value is None for bound in targets([cell])[:-1])  # most cells are missing


@pytest.mark.parametrize(("degree", "kv_tokens"), [(2, KV_TOKENS[1]), (16, KV_TOKENS[0])])
def test_replay_counts_the_prompt_tokens_that_the_real_engine_computed(
    degree: int, kv_tokens: int
) -> None:
    result = msgspec.json.decode((RESULTS / "B1.json").read_bytes(), type=Result)
    live = [row for row in result.rows if row["part"] == "live"]
    counted = compared([*count_rows([live_cell(degree, kv_tokens)]), *live])[:2]
    assert [row["prefilled"] for row in counted] == [row["live"] for row in counted]
    assert counts_target(counted).met


def a_count(order: str, prefilled: int) -> dict[str, object]:
    return {
        "degree": 2,
        "kv_tokens": 8_192,
        "order": order,
        "least": 100,
        "prefilled": prefilled,
    }


def test_other_or_missing_count_misses_its_target() -> None:
    replayed: list[Row] = [
        {"part": "replay", **a_count(order, 100), "live": None} for order in ("groups", "arrival")
    ]
    assert counts_target(compared(replayed)).value is None
    live: list[Row] = [{"part": "live", **a_count("groups", 100)}]
    assert counts_target(compared([*replayed, *live])).value is None
    live.append({"part": "live", **a_count("arrival", 101)})
    rows, bounds = complete([*live, *replayed], [])
    assert [row["part"] for row in rows] == [part for part in PARTS for _ in range(2)]
    assert [bound.value for bound in bounds] == [1.0]
