"""Admission to several engines: a request starts where it fits and is predicted to end first.

It has the interface of one engine's admission, so every policy for continuous batching keeps one
queue in front of all engines. Each engine has a ledger of its own.
"""

from collections.abc import Callable, Sequence
from typing import Final

from gateway.scheduling.admission.interface import (
    NO_CAPACITY,
    STEPS_BETWEEN_DECISIONS,
    Admission,
    Capacity,
)
from gateway.scheduling.admission.prices import EngineCost
from gateway.scheduling.requests import Quantiles, QueuedRequest, RunningSequence, SharedPrefix
from gateway.scheduling.routing.router import Router

MAX_FORECAST_STEPS: Final = 32  # after which what an engine has ahead is read again
ROOMY: Final = 0.6  # of an engine's memory: as long as no more is expected to be in use

RunningOn = Callable[[int], Sequence[RunningSequence]]


class RoutedAdmission:
    """Admits each request to the best ranked engine that it fits.

    An engine that refused a request is not asked again for one that needs as much until a sequence
    left it, or `STEPS_BETWEEN_DECISIONS` steps passed. `running_on` returns what an engine has now:
    an engine is read when a request may go there and its ledger is stale. `capacities` and `costs`
    are those of each engine. The ledgers see interactive sequences only, the router those of both
    lanes.
    """

    def __init__(self, ledgers: Sequence[Admission]) -> None:
        self.router = Router(len(ledgers))
        self._ledgers: Sequence[Admission] = tuple(ledgers)
        self.capacities = [NO_CAPACITY] * len(ledgers)
        self.costs: list[EngineCost | None] = [None] * len(ledgers)
        self._refused: dict[int, QueuedRequest] = {}  # by engine
        self._refused_steps = [0] * len(ledgers)  # since then
        self._smallest = NO_CAPACITY
        self.running_on: RunningOn = _nothing

    @property
    def engines(self) -> int:
        """How many engines there are."""
        return len(self._ledgers)

    @property
    def capacity(self) -> Capacity:
        """The size of the largest engine's pool."""
        return max(self.capacities, key=lambda each: each.tokens)

    @property
    def empty(self) -> bool:
        """Whether an open engine of the largest size has nothing to run."""
        return bool(self._empty_largest())

    @property
    def stale(self) -> bool:
        """Never: engines are read one by one, when they are needed."""
        return False

    def read(self, running_on: RunningOn) -> None:
        """Set how to read what an engine has."""
        self.running_on = running_on

    def take_over(self, before: "RoutedAdmission") -> None:
        """Go on with the engines of another policy's admission, as they are."""
        self.router = before.router
        self.read(before.running_on)
        for engine in range(self.engines):
            self.resize_engine(engine, before.capacities[engine])
            self.price_engine(engine, before.costs[engine])
            self._refresh(engine)

    def outdate(self) -> None:
        """Predictions of running sequences have changed: a refresh is due if anything runs."""
        for engine, ledger in enumerate(self._ledgers):
            ledger.outdate()
            self._changed(engine)

    def refresh(self, running: Sequence[RunningSequence]) -> None:
        """Start again from the sequences that run now, each on its `engine`."""
        for engine in range(self.engines):
            self._refresh(engine, [each for each in running if each.engine == engine])

    def advance(self, steps: int) -> None:
        """Every engine has run this number of steps."""
        for engine in range(self.engines):
            self.advance_engine(engine, steps)

    def advance_engine(self, engine: int, steps: int) -> None:
        """An engine has run this number of steps."""
        self._ledgers[engine].advance(steps)
        self.router.advance(engine, steps)
        self._count_refused(engine, steps)

    def leave(self, request_id: str) -> None:
        """A sequence left its engine; an unknown id is ignored."""
        engine = self.router.ended(request_id)
        if engine is not None:
            self._ledgers[engine].leave(request_id)
            self._changed(engine)

    def admit(self, requests: Sequence[QueuedRequest]) -> int:
        """Admit requests in order until one fits no engine; returns how many were admitted."""
        for index, request in enumerate(requests):
            if not self._admit(request):
                return index
        return len(requests)

    def force(self, request: QueuedRequest) -> None:
        """Admit a request whether it fits or not: to an empty engine of the largest size, if any.

        RuntimeError if no engine is open.
        """
        among = self._empty_largest() or self.router.open()
        if not among:
            raise RuntimeError(f"no engine is open for request {request.id}")
        engine = self.router.ranked(request, among)[0]
        self._ledgers[engine].force(request)
        self.router.started(engine, request)

    def pin(self, prefix: SharedPrefix) -> None:
        """Count a prefix whole on every engine, until `unpin`."""
        for ledger in self._ledgers:
            ledger.pin(prefix)

    def unpin(self, prefix_id: str) -> None:
        """Count a prefix only while a member lives; ignored if it is not pinned."""
        for ledger in self._ledgers:
            ledger.unpin(prefix_id)

    def reserve(self, request: QueuedRequest) -> int:
        """Tokens of generation for which its engine is to reserve memory, at least 1."""
        return self._ledgers[self.router.engine_of(request.id) or 0].reserve(request)

    def resize(self, capacity: Capacity) -> None:
        """Set the size of every engine's pool."""
        for engine in range(self.engines):
            self.resize_engine(engine, capacity)

    def resize_engine(self, engine: int, capacity: Capacity) -> None:
        """Set the size of an engine's pool."""
        self.capacities[engine] = capacity
        self._smallest = min(self.capacities, key=lambda each: each.tokens)
        self._ledgers[engine].resize(capacity)
        self.router.prefixes.resize(engine, capacity.tokens)
        self._changed(engine)

    def assume(self, quantiles: Quantiles | None) -> None:
        """Use these quantiles for every request; None returns to the predicted ones."""
        self.router.forecast.assume(quantiles)
        for ledger in self._ledgers:
            ledger.assume(quantiles)

    def price(self, cost: EngineCost | None) -> None:
        """Weigh by this cost on every engine; None: it is not known."""
        for engine in range(self.engines):
            self.price_engine(engine, cost)

    def price_engine(self, engine: int, cost: EngineCost | None) -> None:
        """Weigh by this cost of an engine; None: it is not known."""
        self.costs[engine] = cost
        self._ledgers[engine].price(cost)
        self.router.forecast.price(engine, cost)
        self._changed(engine)

    def lost(self, engine: int) -> None:
        """An engine stopped: it has nothing, and gets nothing until it returned."""
        self.router.lost(engine)
        self._ledgers[engine].refresh(())
        self._changed(engine)

    def move(self, sequence: RunningSequence, request: QueuedRequest) -> int | None:
        """The engine on which a lost engine's sequence goes on; None if none is open.

        It takes it whether it fits or not: what started before resumes first. Where no engine takes
        new ones, it goes on on one that is drained or returns.
        """
        among = self.router.open() or self.router.availability.present()
        if not among:
            return None
        engine = self.router.ranked(sequence, among)[0]
        self._ledgers[engine].force(request)
        self.router.started(engine, sequence)
        return engine

    def _admit(self, request: QueuedRequest) -> bool:
        among = self._candidates(request)
        if not among:
            return False
        oldest = self.router.forecast.oldest(among)
        if self.router.forecast.steps[oldest] >= 2 * MAX_FORECAST_STEPS:
            self._refresh(oldest)
        for engine in self.router.ranked(request, among):
            if self._fits(engine, request):
                self.router.started(engine, request)
                return True
            self._refused[engine], self._refused_steps[engine] = request, 0
        return False

    def _fits(self, engine: int, request: QueuedRequest) -> bool:
        """Admit a request to an engine's ledger, if it fits."""
        ledger = self._ledgers[engine]
        if ledger.stale:
            if self._roomy(engine, request):
                ledger.force(request)
                return True
            self._refresh(engine)
        return ledger.admit([request]) == 1

    def _roomy(self, engine: int, request: QueuedRequest) -> bool:
        """Whether an engine is so empty that its ledger need not be read to know that it fits."""
        capacity, forecast = self.capacities[engine], self.router.forecast
        tokens = forecast.peak_tokens(engine) + request.prompt_tokens + request.p90
        return tokens <= ROOMY * capacity.tokens and capacity.allows(forecast.running(engine))

    def _candidates(self, request: QueuedRequest) -> Sequence[int]:
        """The open engines that might take a request, by their size and what they refused."""
        among = self.router.open()
        if not self._smallest.fits_alone(request):
            among = [each for each in among if self.capacities[each].fits_alone(request)]
        if not self._refused:
            return among
        refusing = {
            engine
            for engine, refused in self._refused.items()
            if request.prompt_tokens >= refused.prompt_tokens and request.p90 >= refused.p90
        }
        return [engine for engine in among if engine not in refusing]

    def _empty_largest(self) -> list[int]:
        """The open engines of the largest size that have nothing to run."""
        largest = self.capacity.tokens
        return [
            engine
            for engine in self.router.open()
            if self.capacities[engine].tokens == largest and self._ledgers[engine].empty
        ]

    def _refresh(self, engine: int, running: Sequence[RunningSequence] | None = None) -> None:
        """Read what an engine has now, into its ledger and, if that is old, into the forecast."""
        known = self.running_on(engine) if running is None else running
        self._ledgers[engine].refresh(self._counted(known))
        if running is not None or self.router.forecast.steps[engine] >= MAX_FORECAST_STEPS:
            self.router.refresh(engine, known)

    def _counted(self, running: Sequence[RunningSequence]) -> Sequence[RunningSequence]:
        """Of an engine's sequences, those that its ledger has."""
        return [sequence for sequence in running if sequence.lane == "interactive"]

    def _count_refused(self, engine: int, steps: int) -> None:
        """Ask an engine again that refused a request this number of steps ago."""
        if engine in self._refused:
            self._refused_steps[engine] += steps
            if self._refused_steps[engine] >= STEPS_BETWEEN_DECISIONS:
                self._changed(engine)

    def _changed(self, engine: int) -> None:
        """An engine may take what it refused."""
        self._refused.pop(engine, None)


def _nothing(_engine: int) -> Sequence[RunningSequence]:
    return ()
