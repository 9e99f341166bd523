"""The report page: up to date, and made of whatever results there are."""

from pathlib import Path

import pytest

from benchmarks.harness.paths import PLOTS, README, RESULTS
from benchmarks.harness.report import Result, Row, read_results, target
from benchmarks.report import page as page_file
from benchmarks.report.captions import CAPTIONS
from benchmarks.report.figure import Figure
from benchmarks.report.page import PAGE, PICTURE, page, part_of, pictures
from benchmarks.report.plots import draw
from benchmarks.report.sections import FIGURES


def figure(title: str) -> Figure:
    return next(each for each in FIGURES if each.title.startswith(title))


def a_result(name: str, rows: list[Row] | None = None, targets: tuple[str, ...] = ()) -> Result:
    return Result(
        figure=name,
        commit="abc1234",
        machine="a machine",
        taken_at="2026-01-02T03:04:05+00:00",
        rows=rows or [],
        targets=[target(each, 2.0, 1.0) for each in targets],
    )


def a_picture(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()


def test_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(read_results(RESULTS), PLOTS), "run `make report`"


def test_every_picture_has_a_caption() -> None:
    alternatives = {name for _, name in PICTURE.findall(README.read_text())}
    shown = {path.stem for each in FIGURES for path in pictures(each, PLOTS)}
    assert shown <= alternatives | set(CAPTIONS)


def test_details_are_headings_of_the_benchmarks_page() -> None:
    headings = [line for line in README.read_text().splitlines() if line.startswith("#")]
    anchors = {page_file.anchor(line.lstrip("# ")) for line in headings}
    assert {each.details for each in FIGURES if each.details} <= anchors


def test_figure_without_a_result_is_not_run() -> None:
    text = page([], PLOTS / "none")
    for each in FIGURES:
        assert f"## {each.title}\n" in text
        assert f"**Not run yet**: `{each.command}`." in text
    assert text.count("| not run |") == len(FIGURES)


def test_result_is_shown_with_targets_and_excerpt() -> None:
    row = {"size": "tiny", "ratio": "ours / vllm", "median": 1.5, "low": 1.4, "high": 1.6}
    text = page([a_result("E1", [row, {"size": "tiny"}], ("ours / vllm",))], PLOTS / "none")
    assert "| E1 | ours / vllm, at least | 1 | 2 | met |" in text
    assert "| model | ratio | median | low | high |\n|---|---|---|---|---|\n| tiny |" in text
    assert "| engine | 2026-01-02, commit abc1234 | 1 of 1 |" in text


def test_parts_of_a_result_are_separate_figures() -> None:
    rows = [{"part": "replay", "x": 1}, {"part": "live", "x": 2}]
    both = [a_result("S1", rows, ("replay, magnus: requests/s", "live, smollm2, magnus: tokens"))]
    for title, part in (("S1 in replay", "replay"), ("S1 live", "live")):
        found = part_of(figure(title), both)
        assert found is not None
        assert [row["part"] for row in found.rows] == [part]
        assert [each.name.partition(",")[0] for each in found.targets] == [part]
    assert part_of(figure("S1 live"), [a_result("S1", rows[:1])]) is None


def test_live_part_may_have_a_result_of_its_own() -> None:
    results = [a_result("S2", [{"x": 1}], ("texts: mean",)), a_result("S2-live", [{"x": 2}])]
    replayed, live = (part_of(figure(title), results) for title in ("S2 in replay", "S2 live"))
    assert replayed is not None
    assert live is not None
    assert (replayed.figure, live.figure) == ("S2", "S2-live")


@pytest.mark.parametrize("folder", ["S1", "s1"])
def test_pictures_are_found_by_figure_and_part(folder: str, tmp_path: Path) -> None:
    for name in (f"{folder}/S1-throughput.png", f"{folder}/S1-live.png", "S2/S2-mean.png"):
        a_picture(tmp_path, name)
    a_picture(tmp_path, "S2-live/S2-live.png")
    names = {
        title: [path.name for path in pictures(figure(title), tmp_path)]
        for title in ("S1 in replay", "S1 live", "S2 in replay", "S2 live")
    }
    assert names == {
        "S1 in replay": ["S1-throughput.png"],
        "S1 live": ["S1-live.png"],
        "S2 in replay": ["S2-mean.png"],
        "S2 live": ["S2-live.png"],
    }


def test_pictures_of_engines_are_drawn_from_results(tmp_path: Path) -> None:
    drawn = list(draw(read_results(RESULTS), tmp_path))
    assert {path.name for path in drawn} == {"E1-tokens.png", "E4-tokens.png"}
    assert all(path.stat().st_size > 0 for path in drawn)
    assert list(draw([], tmp_path)) == []
