"""The charts of the live page: memory with its forecast, requests, tokens a second."""

from collections.abc import Sequence
from typing import Final

from gateway.dashboard.charts.time_chart import Band, Line, Tick, TimeChart, axis_to
from gateway.dashboard.live.forecast import MemoryForecast, MemoryUse
from gateway.dashboard.live.samples import KEPT_S, Sample
from gateway.dashboard.view.formats import number

AHEAD_S: Final = 60.0
PAST_S: Final = 180.0
MEMORY_TICKS: Final = (-180, -120, -60, 0, 60)
PAST_TICKS: Final = (-300, -240, -180, -120, -60, 0)


def memory_chart(
    samples: Sequence[Sample], forecast: MemoryForecast | None, now_s: float
) -> TimeChart:
    """The KV pool: its use, the peak that was predicted at each moment, and what is ahead."""
    recent = [each for each in samples if each.at_s >= now_s - PAST_S - 1]
    used = Line("in use", "used", [(each.at_s - now_s, each.used) for each in recent], filled=True)
    peaks = Line("predicted peak", "peak", [(each.at_s - now_s, each.peak) for each in recent])
    bands = [
        Band(
            "peak",
            [
                (each.at_s - now_s, each.peak_low, each.peak_high)
                for each in run
                if each.peak_low is not None and each.peak_high is not None
            ],
        )
        for run in _runs(recent)
    ]
    ahead = forecast.course if forecast is not None else []
    shown = _until(ahead)
    course = Line("expected", "ahead", [(use.in_s, use.mean) for use in shown])
    bands.append(Band("ahead", [(use.in_s, use.low, use.high) for use in shown]))
    highest = max(
        [each.used or 0.0 for each in recent]
        + [each.peak_high or 0.0 for each in recent]
        + [use.high for use in shown],
        default=0.0,
    )
    axis = axis_to(highest, 0.05)
    return TimeChart(
        label="Use of the KV pool in the last three minutes, and what is expected",
        lines=[used, peaks, course],
        bands=bands,
        begin=-PAST_S,
        end=AHEAD_S,
        top=axis.top,
        times=[Tick(at, _time_label(at)) for at in MEMORY_TICKS],
        values=axis.ticks(lambda share: f"{100 * share:g} %"),
        now=0.0,
        limit=1.0,
        height=230,
        scale=100.0,
        unit="%",
    )


def requests_chart(samples: Sequence[Sample], now_s: float) -> TimeChart:
    """Running and waiting requests."""
    lines = [
        Line("running", "running", [(s.at_s - now_s, float(s.running)) for s in samples]),
        Line("waiting", "waiting", [(s.at_s - now_s, float(s.waiting)) for s in samples]),
    ]
    return _past_chart("Running and waiting requests in the last five minutes", lines, 4.0)


def tokens_chart(samples: Sequence[Sample], now_s: float) -> TimeChart:
    """Tokens a second."""
    lines = [
        Line("generated", "generated", [(s.at_s - now_s, s.generated_rate) for s in samples]),
        Line("prompt", "prompt", [(s.at_s - now_s, s.prompt_rate) for s in samples]),
    ]
    return _past_chart("Tokens a second in the last five minutes", lines, 10.0, unit="tokens/s")


def _past_chart(label: str, lines: list[Line], least: float, unit: str = "") -> TimeChart:
    highest = max((y for line in lines for _, y in line.points if y is not None), default=0.0)
    axis = axis_to(highest, least)
    return TimeChart(
        label=label,
        lines=lines,
        begin=-KEPT_S,
        end=0.0,
        top=axis.top,
        times=[Tick(at, _time_label(at)) for at in PAST_TICKS],
        values=axis.ticks(number),
        unit=unit,
        height=150,
    )


def _time_label(at: float) -> str:
    if not at:
        return "now"
    minutes = abs(at) / 60
    return f"{'+' if at > 0 else '−'}{minutes:g} min"


def _runs(samples: Sequence[Sample]) -> list[list[Sample]]:
    """The samples with a predicted peak, in runs without a gap."""
    runs: list[list[Sample]] = [[]]
    for each in samples:
        if each.peak is not None:
            runs[-1].append(each)
        elif runs[-1]:
            runs.append([])
    return runs


def _until(course: Sequence[MemoryUse]) -> list[MemoryUse]:
    """The course up to the chart's end, its last point interpolated there."""
    within = [use for use in course if use.in_s <= AHEAD_S]
    if len(within) == len(course) or not within:
        return within
    last, beyond = within[-1], course[len(within)]
    share = (AHEAD_S - last.in_s) / (beyond.in_s - last.in_s)

    def between(a: float, b: float) -> float:
        return a + share * (b - a)

    end = MemoryUse(
        AHEAD_S,
        between(last.mean, beyond.mean),
        between(last.low, beyond.low),
        between(last.high, beyond.high),
    )
    return [*within, end]
