import pytest
from msgspec.structs import replace

from gateway.prediction.lifecycle.schedule import Schedule
from gateway.prediction.lifecycle.triggers import TriggerInputs, due_trigger
from gateway.prediction.serving.drift import Quality

SCHEDULE = Schedule(every_s=3_600, least_outcomes=100, tau_floor=0.1, tau_drop=0.1)
INPUTS = TriggerInputs(
    newest_run_s=1_000, outcomes=100, quality=Quality(500, 0.9, 0.6), judged_tau=0.65
)


def test_nothing_is_due_while_predictions_hold_and_the_timer_runs() -> None:
    assert due_trigger(SCHEDULE, INPUTS, now_s=2_000) is None


def test_timer_is_due_after_its_interval_and_at_once_before_any_run() -> None:
    assert due_trigger(SCHEDULE, INPUTS, now_s=4_600) == "timer"
    assert due_trigger(SCHEDULE, replace(INPUTS, newest_run_s=None), now_s=0) == "timer"
    assert due_trigger(replace(SCHEDULE, every_s=None), INPUTS, now_s=1e9) is None


@pytest.mark.parametrize(
    ("quality", "trigger"),
    [
        (Quality(500, 0.84, 0.6), "coverage"),
        (Quality(500, 0.96, 0.6), "coverage"),
        (Quality(500, 0.97, 0.6, 0.98), None),
        (Quality(500, 0.9, 0.54), "tau"),
        (Quality(500, 0.86, 0.56), None),
    ],
)
def test_drift_is_due_at_once(quality: Quality, trigger: str | None) -> None:
    assert due_trigger(SCHEDULE, replace(INPUTS, quality=quality), now_s=1_001) == trigger
    assert (
        due_trigger(replace(SCHEDULE, drift=False), replace(INPUTS, quality=quality), 1_001) is None
    )


def test_partial_window_triggers_no_drift() -> None:
    inputs = replace(INPUTS, quality=Quality(499, 0.5, 0.0))
    assert due_trigger(SCHEDULE, inputs, now_s=1_001) is None
    assert due_trigger(replace(SCHEDULE, window=499), inputs, now_s=1_001) == "coverage"


def test_floor_holds_without_an_evaluated_tau() -> None:
    inputs = replace(INPUTS, judged_tau=None, quality=Quality(500, 0.9, 0.11))
    assert due_trigger(SCHEDULE, inputs, now_s=1_001) is None
    assert (
        due_trigger(SCHEDULE, replace(inputs, quality=Quality(500, 0.9, 0.09)), now_s=1_001)
        == "tau"
    )


def test_too_few_outcomes_hold_back_every_trigger() -> None:
    inputs = replace(INPUTS, outcomes=99, quality=Quality(500, 0.5, 0.0))
    assert due_trigger(SCHEDULE, inputs, now_s=1e9) is None
