"""Whether a training run is due: pure, the time is an argument."""

from msgspec import Struct

from gateway.prediction.lifecycle.schedule import Schedule
from gateway.prediction.serving.drift import Quality

NOMINAL_COVERAGE = 0.9  # what the upper quantile is to cover


class TriggerInputs(Struct, frozen=True, kw_only=True):
    """What is known when a schedule is looked at.

    `newest_run_s` is the Unix time the newest run was started at, None where none ever was;
    `outcomes` how many requests finished since; `judged_tau` what τ was when the active version
    was judged, None where it was not.
    """

    newest_run_s: float | None
    outcomes: int
    quality: Quality | None
    judged_tau: float | None


def due_trigger(schedule: Schedule, facts: TriggerInputs, now_s: float) -> str | None:
    """The trigger that wants a run at Unix time `now_s`: `coverage`, `tau`, `timer`, or none.

    The first run, before which there is no version, is the timer's, at once. Drift is told by a
    full window alone: of fewer outcomes coverage strays too far by chance.
    """
    if facts.outcomes < schedule.least_outcomes:
        return None
    if schedule.drift and facts.quality is not None and facts.quality.outcomes >= schedule.window:
        if abs(facts.quality.coverage - NOMINAL_COVERAGE) > schedule.coverage_tolerance:
            return "coverage"
        if facts.quality.tau < _min_tau(schedule, facts.judged_tau):
            return "tau"
    if schedule.every_s is None:
        return None
    waited = facts.newest_run_s is None or now_s - facts.newest_run_s >= schedule.every_s
    return "timer" if waited else None


def _min_tau(schedule: Schedule, judged: float | None) -> float:
    return max(schedule.tau_floor, judged - schedule.tau_drop if judged is not None else 0.0)
