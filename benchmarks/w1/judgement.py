"""Judges expected waits: how often the band holds the wait, its width, and the error."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
from msgspec import Struct

from gateway.quantiles import Floats
from gateway.scheduling.waits.bands import Expected, WaitBand, WaitCalibration, expectation

LAST: Final = 100  # waits, and starts, that the naive estimates go by
WARM_UP: Final = 0.2  # of the requests, in order of arrival, that are not judged
EVEN_INSIDE: Final = 0.8
SMALLEST_S: Final = 1e-3  # of a side of a band
OURS: Final = "forecast"
COUNTED: Final = "waiting count"
RECENT: Final = "last waits"
NAIVE: Final = (COUNTED, RECENT)


class Wait(Struct, frozen=True):
    """A request that had to wait: when it arrived, its expected band, and how long it waited."""

    arrived_s: float
    band: WaitBand
    waited_s: float


class Judgement(Struct, frozen=True):
    """How good an estimate is: the share of waits inside the bands; medians of widths and errors.

    `even_width_s` is the median width if all bands are stretched around their medians by one factor
    such that `EVEN_INSIDE` of the waits are inside: only there can widths be compared. In seconds.
    """

    waits: int
    inside: float
    width_s: float
    even_width_s: float
    error_s: float

    @classmethod
    def of(cls, bands: Sequence[WaitBand], waited_s: Sequence[float]) -> "Judgement":
        """The judgement of a band for each wait."""
        low, middle, high = np.array(bands).T
        actual = np.array(waited_s)
        off = actual - middle
        side = np.where(off < 0, middle - low, high - middle)
        stretch = np.quantile(np.abs(off) / np.maximum(side, SMALLEST_S), EVEN_INSIDE)
        width_s = float(np.median(high - low))
        return cls(
            len(actual),
            float(((low <= actual) & (actual <= high)).mean()),
            width_s,
            width_s * float(stretch),
            float(np.median(np.abs(off))),
        )


def judge(waits: Iterable[Wait], starts_s: Sequence[float]) -> dict[str, Judgement]:
    """Ours and the naive estimates, on the same requests; `starts_s` are those of all requests.

    The naive ones are the number that waits times the mean time between the last starts, and the
    median of the last waits. Both get their bands as ours does, from their own errors.
    """
    ordered = sorted(waits, key=lambda each: each.arrived_s)
    judged = range(round(WARM_UP * len(ordered)), len(ordered))
    waited_s = [ordered[number].waited_s for number in judged]
    naive = _naive_bands(ordered, np.sort(np.array(starts_s)))
    bands = {OURS: [each.band for each in ordered], **naive}
    return {
        name: Judgement.of([found[number] for number in judged], waited_s)
        for name, found in bands.items()
    }


def _naive_bands(waits: Sequence[Wait], starts_s: Floats) -> dict[str, list[WaitBand]]:
    """The bands of the naive estimates, in order of arrival."""
    last: deque[float] = deque(maxlen=LAST)
    count = 0

    def gap_s(now_s: float) -> float:
        until = int(np.searchsorted(starts_s, now_s))
        recent = starts_s[max(until - LAST - 1, 0) : until]
        return float(np.diff(recent).mean()) if len(recent) > 1 else 1.0

    def counted(now_s: float) -> float:
        return (count + 1) * gap_s(now_s)

    def recent(now_s: float) -> float:
        return float(np.median(last)) if last else counted(now_s)

    found: dict[str, list[WaitBand]] = {COUNTED: [], RECENT: []}
    estimates: dict[str, Callable[[float], float]] = {COUNTED: counted, RECENT: recent}
    calibrations = {name: WaitCalibration() for name in estimates}
    noted: dict[str, list[Expected]] = {name: [] for name in estimates}
    events = [(each.arrived_s, 1, number) for number, each in enumerate(waits)]
    events += [(each.arrived_s + each.waited_s, 0, number) for number, each in enumerate(waits)]
    for now_s, arrives, number in sorted(events):
        if arrives:
            for name, estimate in estimates.items():
                expected = expectation(estimate(now_s), gap_s(now_s))
                noted[name].append(expected)
                found[name].append(calibrations[name].band(expected))
            count += 1
            continue
        count -= 1
        last.append(waits[number].waited_s)
        for name, calibration in calibrations.items():
            calibration.learn(noted[name][number], waits[number].waited_s)
    return found
