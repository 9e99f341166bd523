"""The filters of the page of requests, and its cells in a spreadsheet."""

import csv
import io
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

import pytest

from gateway.api.usage.csv_text import FORMULA, csv_text
from gateway.dashboard.access.viewer import Viewer
from gateway.dashboard.pages.requests import VIEWS, Wanted
from gateway.errors import InvalidRequest

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_a_view_is_the_query_of_its_filters() -> None:
    for query in VIEWS:
        wanted = Wanted(**dict(parse_qsl(query)))
        assert wanted.query == query
        assert wanted.filter(Viewer(), NOW).since == NOW - timedelta(hours=24)


def test_the_later_of_two_beginnings_counts() -> None:
    early = Wanted(within="1h", since="2026-02-01T00:00").filter(Viewer(), NOW)
    late = Wanted(within="1h", since="2026-03-01T11:30").filter(Viewer(), NOW)
    assert early.since == NOW - timedelta(hours=1)
    assert late.since == NOW - timedelta(minutes=30)


def test_lengths_and_waits_are_numbers() -> None:
    found = Wanted(tokens_from="0", tokens_to="20", wait_from="1.5").filter(Viewer(), NOW)
    bounds = (found.least_tokens, found.most_tokens, found.least_wait_s, found.most_wait_s)
    assert bounds == (0, 20, 1.5, None)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("tokens_from", "-1"),
        ("tokens_to", "many"),
        ("tokens_to", str(2**31)),
        ("wait_from", "nan"),
        ("wait_to", "inf"),
        ("within", "2h"),
        ("outcome", "odd"),
        ("since", "soon"),
    ],
)
def test_a_wrong_filter_is_named(name: str, given: str) -> None:
    with pytest.raises(InvalidRequest, match=name) as caught:
        Wanted(**{name: given}).filter(Viewer(), NOW)
    assert caught.value.param == name


def test_no_cell_begins_a_formula_and_all_else_stays() -> None:
    texts = [f"{start}cmd|' /C calc'!A0" for start in FORMULA]
    plain = ["1-2", " =1", "a@b", "", 'a "quoted", text\nof two lines']
    (row,) = csv.reader(io.StringIO(csv_text([[*texts, *plain, None, -5, NOW]]), newline=""))
    assert row == [*(f"'{text}" for text in texts), *plain, "", "-5", "2026-03-01T12:00:00+00:00"]
