"""Result files, and the tables made of them."""

import json
from pathlib import Path

import msgspec
import pytest

from benchmarks.harness import report as report_file
from benchmarks.harness.paths import PLOTS, README, RESULTS
from benchmarks.harness.report import (
    BEGIN,
    END,
    Report,
    Result,
    rows_table,
    shown,
    table_cells,
    target,
    write_tables,
)


def a_result(figure: str, value: float | None) -> Result:
    return Result(
        figure=figure,
        commit="abc1234",
        machine="a machine, 2 cores",
        taken_at="2026-01-02T03:04:05+00:00",
        rows=[{"size": "tiny", "median": 1234.5, "tokens_s": [1.0, 2.0]}],
        targets=[target("ours / theirs", value, 1.15)],
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A benchmarks folder without results, and a cache next to it."""
    (tmp_path / "README.md").write_text(f"Before.\n{BEGIN}old{END}After.\n")
    monkeypatch.setattr(report_file, "README", tmp_path / "README.md")
    monkeypatch.setattr(report_file, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(report_file, "CACHE", tmp_path / "cache")
    return tmp_path


def write(folder: Path, *results: Result) -> str:
    (folder / "results").mkdir(exist_ok=True)
    for result in results:
        content = msgspec.json.encode(result)
        (folder / "results" / f"{result.figure}.json").write_bytes(content)
    write_tables(folder / "README.md", folder / "results")
    return (folder / "README.md").read_text()


def test_result_file_holds_the_agreed_fields(folder: Path) -> None:
    Report("E9", look=False).write([{"x": 1}], [target("x", 1.0, 2.0)])
    written = json.loads((folder / "results" / "E9.json").read_text())
    assert list(written) == ["figure", "commit", "machine", "taken_at", "rows", "targets"]
    assert written["targets"] == [
        {"name": "x, at least", "value": 1.0, "target": 2.0, "met": False}
    ]


def test_committed_file_has_only_what_tables_show(folder: Path) -> None:
    row = {"x": 1, "name": "a", "missing": None, "runs": [1, 2], "policies": {"fcfs": {"p50": 3}}}
    Report("E9", look=False).write([row], [])
    committed = json.loads((folder / "results" / "E9.json").read_text())
    full = json.loads((folder / "cache" / "results" / "E9.json").read_text())
    assert committed["rows"] == [{"x": 1, "name": "a", "missing": None}]
    assert full["rows"] == [row]
    assert {**committed, "rows": full["rows"]} == full
    assert "| 1 | a |  |" in (folder / "README.md").read_text()


def test_results_in_git_are_what_readme_shows(tmp_path: Path) -> None:
    """Every cell of `benchmarks/results` is in a table, and the tables are up to date."""
    for path in sorted(RESULTS.glob("*.json")):
        rows = msgspec.json.decode(path.read_bytes(), type=Result).rows
        assert rows == [table_cells(row) for row in rows], path.name
    copy = tmp_path / "README.md"
    copy.write_text(README.read_text())
    write_tables(copy, RESULTS)
    assert copy.read_text() == README.read_text()


def test_pictures_of_a_figure_have_a_folder_of_their_own(folder: Path) -> None:
    assert Report("E9", look=False).plots == PLOTS / "E9"
    assert Report("E9", look=True).plots == folder / "cache" / "looks"


def test_table_is_made_of_all_result_files(folder: Path) -> None:
    text = write(folder, a_result("E1", 1.2), a_result("E3", 1.3))
    assert "| E1 | ours / theirs, at least | 1.15 | 1.2 | met |" in text
    assert "| E3 | ours / theirs, at least | 1.15 | 1.3 | met |" in text
    assert "a machine, 2 cores; commit abc1234; 2026-01-02" in text


def test_text_around_the_tables_is_kept(folder: Path) -> None:
    write(folder, a_result("E1", 1.2))
    text = write(folder, a_result("E1", 1.2))
    assert text.startswith(f"Before.\n{BEGIN}")
    assert text.endswith(f"{END}After.\n")
    assert text.count("| E1 |") == 1


def test_missed_target_is_shown_as_missed(folder: Path) -> None:
    text = write(folder, a_result("E1", 1.1))
    assert "| E1 | ours / theirs, at least | 1.15 | 1.1 | **missed** |" in text


def test_target_without_a_value_is_missed(folder: Path) -> None:
    text = write(folder, a_result("E1", None))
    assert "| E1 | ours / theirs, at least | 1.15 | missing | **missed** |" in text


def test_upper_bound_is_met_from_below() -> None:
    assert target("share", 0.1, 0.1, "at most").met
    assert not target("share", 0.11, 0.1, "at most").met


def test_look_leaves_results_and_table_alone(folder: Path) -> None:
    before = (folder / "README.md").read_text()
    Report("E1", look=True).write([], [])
    assert (folder / "cache" / "looks" / "E1.json").exists()
    assert not (folder / "results").exists()
    assert not (folder / "cache" / "results").exists()
    assert (folder / "README.md").read_text() == before


@pytest.mark.usefixtures("folder")
def test_run_of_one_part_keeps_the_rows_and_targets_of_the_other() -> None:
    rows = [{"part": "live", "saved": 0.4}, {"part": "replay", "saved": 0.5}]
    bounds = [target("live: saved", 0.4, 0.4), target("replay: saved", 0.5, 0.4)]
    assert Report("B1", look=False).committed(["live"]) == ([], [])
    Report("B1", look=False).write(rows, bounds)
    assert Report("B1", look=False).committed(["live"]) == (rows[:1], bounds[:1])
    assert Report("B1", look=False).committed([]) == ([], [])
    assert Report("B1", look=True).committed(["live"]) == ([], [])


def test_rows_with_different_fields_have_separate_tables() -> None:
    text = rows_table([{"a": 1, "runs": [1]}, {"b": 2}, {"a": 3, "runs": []}])
    assert text == "| a |\n|---|\n| 1 |\n| 3 |\n\n| b |\n|---|\n| 2 |"


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1,234"), (1.2345, "1.23"), (0.0, "0"), (7, "7"), (None, ""), ("x", "x")],
)
def test_number_is_shown_with_three_significant_digits(value: object, text: str) -> None:
    assert shown(value) == text
