"""Estimates waits: one estimate for all that waits, live and in replay.

Its owner reports arrivals, starts and withdrawals, and at most once a second takes a snapshot, runs
it forward (in another thread, as that takes some milliseconds) and hands the forecast back.
Requests that arrive in between are placed into the newest forecast.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable
from math import hypot, inf
from typing import Final, NamedTuple

import numpy as np
from msgspec import Struct

from gateway.scheduling.requests import QueuedRequest
from gateway.scheduling.waits.arrivals import Arrival, RecentArrivals
from gateway.scheduling.waits.bands import Expected, WaitBand, WaitCalibration, expectation
from gateway.scheduling.waits.forecast import Forecast, mean_held, run_forward
from gateway.scheduling.waits.snapshot import QueueSnapshot

INTERVAL_S: Final = 1.0  # between two forecasts, at least
LOOKED_AT: Final = 8  # waiting requests of each forecast whose outcome is learned
ROOM_WEIGHT: Final = 0.2  # of the newest measurement of the room
STARTS: Final = 64  # newest ones over which gaps are averaged


class Outlook(Struct, frozen=True):
    """When a waiting request starts and ends, in seconds from now; `place` 1 is next."""

    place: int
    start: WaitBand
    finish: WaitBand


class ForecastRun(NamedTuple):
    """A forecast that is due: what it starts from. `run` may be called in any thread."""

    snapshot: Callable[[], QueueSnapshot]
    arrivals: list[Arrival]
    rate_s: float
    room_tokens: float | None
    seed: int

    def run(self, pause: Callable[[], None] = lambda: None) -> "FinishedRun":
        """Run the queue forward."""
        snapshot = self.snapshot()
        measured = used_room(snapshot)
        rooms = [each for each in (self.room_tokens, measured) if each is not None]
        room = sum(rooms) / len(rooms) if rooms else snapshot.room_tokens
        rng = np.random.default_rng(self.seed)
        found = run_forward(snapshot, self.arrivals, self.rate_s, room, rng, pause)
        return FinishedRun(found, measured)


class FinishedRun(NamedTuple):
    """A forecast, and the room that admission was seen to use; None if nothing waited."""

    forecast: Forecast
    room_tokens: float | None


def used_room(snapshot: QueueSnapshot) -> float | None:
    """The mean KV tokens of what runs, while a request waits: it does not fit in addition.

    Half of what the next one would hold is added: somewhere up to there is the bound.
    """
    queue = snapshot.queue
    if not queue.requests or not snapshot.running:
        return None
    held = sum(
        mean_held(each.prompt_tokens, max(each.quantiles[2], each.generated))
        for each in snapshot.running
    )
    tenants = queue.tenants or {}
    first = min(tenants, key=lambda name: tenants[name].counter, default=None)
    ranked = [each for each in queue.requests if each.request.tenant == first]
    following = max(ranked or queue.requests, key=lambda each: each.rank).request
    return held + mean_held(following.prompt_tokens, following.median) / 2


class _Waiting(Struct):
    request: QueuedRequest
    arrived_s: float
    expected: Expected
    band: WaitBand
    looked_at: list[tuple[float, Expected]]


class WaitEstimator:
    """The expectations of all queued requests, and what became of earlier ones."""

    def __init__(self) -> None:
        self.at_arrival = WaitCalibration()
        self.waiting_on = WaitCalibration()  # of those that wait already
        self.arrivals = RecentArrivals()
        self._forecast: Forecast | None = None
        self._room: float | None = None
        self._waiting: dict[str, _Waiting] = {}
        # Later arrivals by tenant: rank, negated, and how long each occupies the engine.
        self._since: dict[str, list[tuple[float, float]]] = {}
        self._gaps_s: deque[float] = deque(maxlen=STARTS)
        self._last_start_s: float | None = None
        self._runs = 0

    @property
    def as_of_s(self) -> float | None:
        """The time of the newest forecast; None before the first."""
        return None if self._forecast is None else self._forecast.now_s

    @property
    def step_s(self) -> float:
        """The time of a step at the newest forecast; 0 before the first."""
        return 0.0 if self._forecast is None else self._forecast.step_s

    def revise(self, request: QueuedRequest) -> None:
        """A waiting request has another prediction; ignored if it does not wait."""
        state = self._waiting.get(request.id)
        if state is not None:
            state.request = request

    def begin(self, now_s: float, snapshot: Callable[[], QueueSnapshot]) -> ForecastRun:
        """A forecast to run: `snapshot` is of now, and called in the thread that runs it."""
        self._runs += 1
        self._since = {}
        return ForecastRun(
            snapshot,
            list(self.arrivals.sample),
            self.arrivals.rate(now_s),
            self._room,
            self._runs,
        )

    def adopt(self, finished: FinishedRun) -> None:
        """Take up a forecast, and note some of its expectations until they are known."""
        forecast, room = finished
        self._forecast = forecast
        if room is not None:
            known = room if self._room is None else self._room
            self._room = known + ROOM_WEIGHT * (room - known)
        names = list(forecast.expected)
        step = max(len(names) // LOOKED_AT, 1)
        for name in names[self._runs % step :: step]:
            state = self._waiting.get(name)
            if state is not None:
                expected = expectation(forecast.expected[name].start_s, self._gap_s(forecast))
                state.looked_at.append((forecast.now_s, expected))

    def arrive(self, request: QueuedRequest, rank: float, now_s: float) -> WaitBand:
        """A request was queued with this rank; the band of its wait."""
        expected = self.expected_of_new(request.tenant, rank, now_s)
        band = self.at_arrival.band(expected)
        self._waiting[request.id] = _Waiting(request, now_s, expected, band, [])
        occupied_s = self._forecast.occupied_s(request) if self._forecast else 0.0
        insort(self._since.setdefault(request.tenant, []), (-rank, occupied_s))
        self.arrivals.add(request, rank, now_s)
        return band

    def expected_of_new(self, tenant: str, rank: float, now_s: float) -> Expected:
        """The uncalibrated wait of a request that arrives now."""
        forecast = self._forecast
        if forecast is None:
            return expectation(len(self._waiting) * self._mean_gap_s(), self._mean_gap_s())
        gap_s = self._gap_s(forecast)
        start_s = forecast.start_of_new(tenant, rank) - (now_s - forecast.now_s)
        since = self._since.get(tenant, [])
        before_s = sum(each for _, each in since[: bisect_left(since, (-rank, inf))])
        return expectation(max(start_s, 0.0) + before_s, gap_s)

    def band_of_new(self, tenant: str, rank: float, now_s: float) -> WaitBand:
        """The expected wait of a request that would arrive now."""
        return self.at_arrival.band(self.expected_of_new(tenant, rank, now_s))

    def started(self, request_id: str, now_s: float, *, waited: bool = True) -> None:
        """A request started. `waited`: it did not start in the decision of its arrival."""
        state = self._waiting.pop(request_id, None)
        if state is None:
            return
        if self._last_start_s is not None:
            self._gaps_s.append(now_s - self._last_start_s)
        self._last_start_s = now_s if self._waiting else None
        if not waited:
            return
        self.at_arrival.learn(state.expected, now_s - state.arrived_s)
        for then_s, expected in state.looked_at:
            self.waiting_on.learn(expected, now_s - then_s)

    def left(self, request_id: str) -> None:
        """A request left the queue without a start."""
        self._waiting.pop(request_id, None)

    def outlook(self, request_id: str, now_s: float) -> Outlook | None:
        """What is expected of a waiting request; None if it does not wait, or before a forecast."""
        state, forecast = self._waiting.get(request_id), self._forecast
        if state is None or forecast is None:
            return None
        found = forecast.expected.get(request_id)
        if found is None:  # it has arrived since
            band = state.band.later(now_s - state.arrived_s)
            finish = finish_band(band, self.step_s * state.request.median, state.request)
            return Outlook(len(self._waiting), band, finish)
        passed_s = now_s - forecast.now_s
        band = self.waiting_on.band(expectation(found.start_s, self._gap_s(forecast)))
        runs_s = found.finish_s - found.start_s
        finish = finish_band(band, runs_s, state.request)
        return Outlook(found.place, band.later(passed_s), finish.later(passed_s))

    def _gap_s(self, forecast: Forecast) -> float:
        return self._mean_gap_s() or forecast.gap_s

    def _mean_gap_s(self) -> float:
        return sum(self._gaps_s) / len(self._gaps_s) if self._gaps_s else 0.0


def finish_band(start: WaitBand, runs_s: float, request: QueuedRequest) -> WaitBand:
    """The end of a request that runs for `runs_s` if its answer has the median length.

    The distances of start and length from their medians are added as if independent.
    """
    low, middle, high = request.quantiles[0], request.median, request.p90
    below_s = hypot(start.p50 - start.p10, runs_s * (1 - low / middle))
    above_s = hypot(start.p90 - start.p50, runs_s * (high / middle - 1))
    end_s = start.p50 + runs_s
    return WaitBand(max(end_s - below_s, start.p10), end_s, end_s + above_s)
