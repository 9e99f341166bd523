"""Numbers as text, the size of what browsers load, escaping, and charts."""

import json
import re
from importlib.resources import files

import pytest

from gateway.dashboard.charts.length_bar import LengthBar, LengthScale
from gateway.dashboard.charts.time_chart import Line, Tick, TimeChart, axis_to
from gateway.dashboard.pages.keys import next_name
from gateway.dashboard.view.assets import ASSETS
from gateway.dashboard.view.formats import number, percent, seconds
from gateway.dashboard.view.templates import ENVIRONMENT, render
from gateway.tenancy.naming import checked_name

MAX_BYTES = 300_000


def test_all_files_of_the_page_have_at_most_300_kb() -> None:
    templates = files("gateway.dashboard") / "templates"
    pages = sum(len(each.read_bytes()) for each in templates.iterdir())
    assert sum(len(asset.content) for asset in ASSETS.values()) + pages <= MAX_BYTES


def test_no_file_of_the_page_names_another_origin() -> None:
    for name, asset in ASSETS.items():
        if name.endswith((".min.js", "icon.svg")):
            continue
        assert b"://" not in asset.content, name


def test_no_template_has_a_script_or_style_of_its_own() -> None:
    assert ENVIRONMENT.loader is not None
    for name in ENVIRONMENT.list_templates():
        source = ENVIRONMENT.loader.get_source(ENVIRONMENT, name)[0]
        assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=|<style", source), name


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("nan"), "–"), (0, "0"), (9_999, "9,999"), (12_345, "12.3k"),
     (999_999, "1.00M"), (4_560_000, "4.56M")],
)  # fmt: skip
def test_counts_are_short(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0.00 s"), (0.351, "0.35 s"), (42.34, "42.3 s"), (185, "3 min 05 s"),
     (7_800, "2 h 10 min"), (-3.0, "-3.00 s"), (200_000, "2.3 d")],
)  # fmt: skip
def test_durations_have_their_unit(value: float | None, text: str) -> None:
    assert seconds(value) == text


def test_shares_are_in_per_cent() -> None:
    assert percent(0.256, 1) == "25.6 %"


@pytest.mark.parametrize("highest", [0.0, 0.03, 0.9, 1.0, 7.0, 99.0, 12_345.0])
def test_an_axis_has_few_lines_up_to_a_round_top(highest: float) -> None:
    axis = axis_to(highest, 0.05)
    assert highest < axis.top <= max(2.2 * highest, 0.06)
    assert 2 <= len(axis.ticks(str)) <= 5


def a_chart(*points: tuple[float, float | None], name: str = "line") -> str:
    return TimeChart(
        label=name,
        lines=[Line(name, "used", points, filled=True)],
        begin=0.0,
        end=10.0,
        top=1.0,
        times=[Tick(0.0, name)],
        values=[Tick(0.5, "half")],
    ).__html__()


def test_a_gap_interrupts_a_line() -> None:
    path = re.findall(r'class="line used" d="([^"]*)"', a_chart((0, 0.5), (1, None), (2, 1.0)))
    assert path[0].count("M") == 2


def test_a_chart_can_be_read_by_the_pointer() -> None:
    (given,) = re.findall(r'data-chart="([^"]*)"', a_chart((0, 0.5), (20, 1.0)))
    lines = json.loads(given.replace("&#34;", '"'))["lines"]
    assert lines == [{"name": "line", "style": "used", "points": [[0, 0.5]]}]


def test_an_empty_chart_is_drawn() -> None:
    assert 'd=""' in a_chart()


def test_names_are_escaped_wherever_they_are_shown() -> None:
    hostile = '"><script>alert(1)</script>'
    assert "<script>" not in a_chart((0, 0.5), name=hostile)
    assert "<script>" not in render("error_line.html", {"message": hostile})


def test_a_length_bar_stays_within_its_axis() -> None:
    bar = LengthBar(LengthScale(100.0), -1.0, 50.0, 1e9, 1e9).__html__()
    places = [float(each) for each in re.findall(r'[="]([\d.]+)%"', bar)]
    assert all(0 <= each <= 100 for each in places)


@pytest.mark.parametrize("name", ["laptop", "x" * 100, "laptop 2026-01-02 03:04:05"])
def test_a_rotated_key_gets_another_name_of_bounded_length(name: str) -> None:
    found = next_name(name)
    assert found != name
    assert checked_name(found) == found
    assert found.startswith(name[:6])
    assert found.count(":") == 2
