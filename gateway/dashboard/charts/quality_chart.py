"""Coverage, τ and held ÷ used over a window."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from gateway.dashboard.charts.time_chart import Line, Tick, TimeChart, axis_to
from gateway.prediction.lifecycle.drift_series import Bucket
from gateway.prediction.lifecycle.served_quality import QualityBucket

NOMINAL: Final = 0.9
TICKS: Final = 4
DAY: Final = timedelta(days=1)


def coverage_chart(
    served: Sequence[QualityBucket], ranked: Sequence[Bucket], window: timedelta, now: datetime
) -> TimeChart:
    """The share of lengths within P90, whose goal is 90 %, and τ of the versions' predictions."""
    taus = [
        (_at(bucket.since, now), None if bucket.quality is None else bucket.quality.tau)
        for bucket in ranked
    ]
    covered = [(_at(bucket.since, now), bucket.coverage) for bucket in served]
    return TimeChart(
        label="Share of lengths within the predicted 90 % quantile, and rank correlation",
        lines=[Line("within P90", "first", covered), Line("τ", "third", taus)],
        begin=-window.total_seconds(),
        end=0.0,
        top=1.05,
        times=time_ticks(window),
        values=[Tick(0.5, "0.5"), Tick(NOMINAL, "0.9")],
        limit=None,
        height=170,
    )


def held_chart(served: Sequence[QualityBucket], window: timedelta, now: datetime) -> TimeChart:
    """What was held for requests, their P90, relative to what they used."""
    held = [(_at(bucket.since, now), bucket.held) for bucket in served]
    axis = axis_to(max((value for _, value in held), default=0.0), 2.0)
    return TimeChart(
        label="Predicted 90 % quantiles relative to the lengths that came, over time",
        lines=[Line("held ÷ used", "second", held)],
        begin=-window.total_seconds(),
        end=0.0,
        top=axis.top,
        times=time_ticks(window),
        values=axis.ticks(lambda ratio: f"{ratio:g} ×"),
        unit="×",
        height=150,
    )


def time_ticks(window: timedelta) -> list[Tick]:
    """Places in the window, as the time before now."""
    ticks = []
    for part in range(TICKS + 1):
        before = window * (1 - part / TICKS)
        if window >= 2 * DAY:
            label = f"−{before / DAY:.3g} d"
        elif window > timedelta(hours=2):
            label = f"−{before / timedelta(hours=1):.3g} h"
        else:
            label = f"−{before / timedelta(minutes=1):.3g} min"
        ticks.append(Tick(-before.total_seconds(), label if before else "now"))
    return ticks


def _at(since: datetime, now: datetime) -> float:
    return (since - now).total_seconds()
