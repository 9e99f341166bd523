"""What a form asks to be replayed, and how far a replay is."""

from datetime import UTC, datetime, timedelta

import pytest

from gateway.dashboard.pages.what_if import (
    MAX_ENGINES,
    POLICIES,
    ROUTERS,
    described,
    engines_of,
    window_of,
)
from gateway.dashboard.replays.runs import ReplayOptions, ReplayRun
from gateway.errors import InvalidRequest
from gateway.replay.comparison import CONTENDERS
from gateway.replay.routers import ROUTER_NAMES

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def test_policies_and_routers_are_those_of_the_replay() -> None:
    assert set(POLICIES) <= set(CONTENDERS)
    assert set(ROUTERS) == set(ROUTER_NAMES)


@pytest.mark.parametrize(
    ("given", "neighbours", "engines"),
    [
        ("1", False, [(1.0,)]),
        ("3", False, [(1.0, 1.0, 1.0)]),
        (" 1, 0.5 ", False, [(1.0, 0.5)]),
        ("0.5", False, [(0.5,)]),
        ("1", True, [(1.0,), (1.0, 1.0)]),
        ("2", True, [(1.0,), (1.0, 1.0), (1.0, 1.0, 1.0)]),
        ("1,0.5", True, [(1.0,), (1.0, 0.5), (1.0, 0.5, 1.0)]),
        (str(MAX_ENGINES), True, [(1.0,) * (MAX_ENGINES - 1), (1.0,) * MAX_ENGINES]),
    ],
)
def test_engines_are_a_number_or_speeds(
    given: str, neighbours: bool, engines: list[tuple[float, ...]]
) -> None:
    assert list(engines_of(given, neighbours=neighbours)) == engines


@pytest.mark.parametrize("given", ["", "0", "-1", "1.5", "17", "1,2", "1,,1", "nan", "inf", "all"])
def test_other_engines_are_refused(given: str) -> None:
    with pytest.raises(InvalidRequest, match="engines: accepted is a number from 1 to 16"):
        engines_of(given, neighbours=False)


def test_engines_are_described_by_number_unless_their_speeds_differ() -> None:
    engines = [(1.0,), (1.0, 1.0), (1.0, 0.5)]
    assert [described(each) for each in engines] == ["1", "2", "1 × + 0.5 ×"]


def test_a_window_is_the_last_hours_or_between_two_times() -> None:
    assert window_of("", "", 6.0, NOW) == (NOW - timedelta(hours=6), NOW)
    begin, end = window_of("2026-02-01T09:00", "2026-02-01T10:30", 6.0, NOW)
    assert (begin.isoformat(), end - begin) == ("2026-02-01T09:00:00+00:00", timedelta(minutes=90))


@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("2026-02-01T09:00", ""),
        ("", "2026-02-01T09:00"),
        ("2026-02-01T09:00", "2026-02-01T09:00"),
        ("2026-02-01T09:00", "2026-01-31T09:00"),
        ("2025-02-01T09:00", "2026-02-01T09:00"),
        ("0001-01-01T00:00+14:00", "2026-02-01T09:00"),
        ("soon", "2026-02-01T09:00"),
    ],
)
def test_half_or_too_long_a_window_is_refused(since: str, until: str) -> None:
    with pytest.raises(InvalidRequest, match="accepted is a time"):
        window_of(since, until, 1.0, NOW)


def test_progress_counts_the_simulations_that_ended() -> None:
    options = ReplayOptions(
        since=NOW, until=NOW, policies=("lmaas", "fcfs"), engines=((1.0,), (1.0, 1.0))
    )
    run = ReplayRun(number=1, options=options, by="olga", began_at=NOW)
    run.note("predictions: as recorded")
    assert (run.finished, run.total) == (0, 4)
    run.note("lmaas, seed 1: mean 1.00 s, p99 2.00 s")
    run.note("sjf, seed 1: mean 1.00 s, p99 2.00 s")
    assert run.finished == 1
    assert len(run.lines) == 3
