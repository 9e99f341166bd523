"""Decides whether a training run is due."""

from msgspec import Struct

from gateway.prediction.lifecycle.schedule import Schedule
from gateway.prediction.serving.drift import Quality


class TriggerInputs(Struct, frozen=True, kw_only=True):
    """The inputs of the decision.

    `newest_run_s`: Unix time at which the newest run was started, None without a run. `outcomes`:
    requests finished since. `judged_tau`: τ of the active version in its evaluation, None if it
    has none.
    """

    newest_run_s: float | None
    outcomes: int
    quality: Quality | None
    judged_tau: float | None


def due_trigger(schedule: Schedule, facts: TriggerInputs, now_s: float) -> str | None:
    """The trigger of a run at Unix time `now_s`: `coverage`, `tau`, `timer`, or None.

    The first run is due at once, by the timer. Drift needs a full window: coverage over fewer
    outcomes is too noisy.
    """
    if facts.outcomes < schedule.least_outcomes:
        return None
    if schedule.drift and facts.quality is not None and facts.quality.outcomes >= schedule.window:
        off = abs(facts.quality.coverage - facts.quality.expected_coverage)
        if off > schedule.coverage_tolerance:
            return "coverage"
        if facts.quality.tau < _min_tau(schedule, facts.judged_tau):
            return "tau"
    if schedule.every_s is None:
        return None
    waited = facts.newest_run_s is None or now_s - facts.newest_run_s >= schedule.every_s
    return "timer" if waited else None


def _min_tau(schedule: Schedule, judged: float | None) -> float:
    return max(schedule.tau_floor, judged - schedule.tau_drop if judged is not None else 0.0)
