"""The reserve for interactive arrivals."""

from gateway.scheduling.batch_lane.reserve import MAX_WINDOWS, ArrivalReserve

WINDOW_S = 10.0


def test_begins_with_what_is_held_and_ends_with_nothing() -> None:
    reserve = ArrivalReserve()
    reserve.begin(0.0, 40)
    reserve.begin(5.0, 999)
    assert reserve.at(1.0, WINDOW_S) == 40
    assert reserve.at((MAX_WINDOWS - 2) * WINDOW_S, WINDOW_S) == 40
    assert reserve.at(MAX_WINDOWS * WINDOW_S, WINDOW_S) == 0


def test_counts_the_peak_held_at_once_by_those_that_started_in_a_window() -> None:
    reserve = ArrivalReserve()
    reserve.begin(0.0, 0)
    reserve.started("a", 5, 1.0, WINDOW_S)
    reserve.started("b", 7, 2.0, WINDOW_S)
    reserve.ended("a")
    reserve.started("c", 4, 3.0, WINDOW_S)
    assert reserve.at(9.0, WINDOW_S) == 0
    assert reserve.at(11.0, WINDOW_S) == 12
    reserve.ended("b")  # started in the window before
    reserve.started("d", 1, 12.0, WINDOW_S)
    assert reserve.at(21.0, WINDOW_S) == 12


def test_one_burst_in_twenty_windows_is_let_go() -> None:
    reserve = ArrivalReserve()
    reserve.begin(0.0, 0)
    for window in range(MAX_WINDOWS + 1):
        pages = 900 if window == 7 else 10
        reserve.started(f"{window}", pages, window * WINDOW_S + 1, WINDOW_S)
        reserve.ended(f"{window}")
    assert reserve.at((MAX_WINDOWS + 1) * WINDOW_S, WINDOW_S) == 10


def test_starts_before_the_lane_is_used_are_ignored() -> None:
    reserve = ArrivalReserve()
    reserve.started("a", 5, 1.0, WINDOW_S)
    assert reserve.at(50.0, WINDOW_S) == 0
