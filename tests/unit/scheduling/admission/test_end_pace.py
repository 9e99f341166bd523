"""The steps between ends: none before the first, then the mean over recent ones."""

import pytest

from gateway.scheduling.admission.end_pace import RECENT_ENDS, EndPace


def test_nothing_is_known_before_the_first_end() -> None:
    pace = EndPace()
    pace.advance(100)
    assert pace.steps is None


def test_steps_since_the_last_end_count() -> None:
    pace = EndPace()
    pace.advance(30)
    pace.ended()
    assert pace.steps == 30
    pace.ended()
    assert pace.steps == 15
    pace.advance(10)
    assert pace.steps == 20


def test_old_ends_are_forgotten() -> None:
    pace = EndPace()
    for gap in (1_000, 2):
        for _ in range(10 * int(RECENT_ENDS)):
            pace.advance(gap)
            pace.ended()
    assert pace.steps == pytest.approx(2, rel=0.1)
