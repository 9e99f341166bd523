"""Simulates a gateway with its engine: one run of a workload under a policy.

The live gateway runs the same `ControlLoop`. Simultaneous events lead to one decision.
"""

from math import inf
from time import perf_counter
from typing import Final

import numpy as np
from msgspec.structs import replace

from gateway.prediction.serving.drift import RollingQuality
from gateway.replay.cost.model import EngineModel, EngineShape
from gateway.replay.engine.base import Sequences, SimulatedEngine
from gateway.replay.engine.continuous import ContinuousEngine
from gateway.replay.engine.lanes import LanesEngine
from gateway.replay.engine.lockstep import LockstepEngine
from gateway.replay.engine.sequence import SimulatedSequence
from gateway.replay.job_feed import JobFeed
from gateway.replay.measure.results import ReplayResults, RequestColumns, SeriesSampler
from gateway.replay.prefix_pins import PrefixPins
from gateway.replay.waits import ReplayedWaits
from gateway.replay.workload.workload import Workload
from gateway.scheduling.admission.prices import EngineCost
from gateway.scheduling.control_loop import ControlLoop
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.policy import Policy
from gateway.scheduling.requests import QueuedRequest, RunningSequence

MAX_SAMPLES: Final = 2_000
TAU_FLOOR: Final = 0.2
TRUST_WINDOW: Final = 500  # requests for the rolling Kendall's τ


def replay(
    workload: Workload,
    policy: Policy,
    engine: EngineModel,
    *,
    tau_floor: float | None = TAU_FLOOR,
    max_samples: int = MAX_SAMPLES,
    waits: ReplayedWaits | None = None,
) -> ReplayResults:
    """Replay a workload under an unused policy.

    Answers are cut to the context that the engine has left for them. If the rolling τ falls below
    `tau_floor`, the policy stops trusting predictions; None: it always trusts them. `max_samples`
    limits the length of the time series. `waits` gets all that the wait
    estimator needs.
    """
    simulated = _engine(policy, engine, workload)
    return Simulation(
        workload,
        policy,
        simulated,
        engine.shape,
        cost=engine.admission_cost,
        most_background=engine.most_background,
        tau_floor=tau_floor,
        max_samples=max_samples,
        waits=waits,
    ).run()


class Simulation:
    """One run. The clock jumps from event to event.

    `cost` is what admission weighs by; None: it does not know it. `most_background` sequences of
    jobs run at once at most; None: as many as interactive ones.
    """

    def __init__(
        self,
        workload: Workload,
        policy: Policy,
        engine: SimulatedEngine,
        shape: EngineShape,
        *,
        cost: EngineCost | None,
        most_background: int | None,
        tau_floor: float | None,
        max_samples: int,
        waits: ReplayedWaits | None = None,
    ) -> None:
        self._workload = workload
        self._waits = waits
        self._loop = ControlLoop(policy)
        self._engine = engine
        self._loop.resize(shape.pages, shape.page_tokens, shape.max_sequences)
        self._loop.price(cost)
        self._loop.limit_batch(most_background)
        self._arrivals: list[float] = [*workload.arrived_s.tolist(), inf]
        room = shape.max_sequence_tokens - workload.prompt_tokens
        self._max_tokens = np.minimum(workload.max_tokens, room)
        self._tokens = np.minimum(workload.generation_tokens, self._max_tokens)
        began_s, ended_s = (self._arrivals[0], self._arrivals[-2]) if len(workload) else (0.0, 0.0)
        self._series = SeriesSampler(began_s, ended_s - began_s, max_samples)
        self._columns = RequestColumns(len(workload))
        self._tau_floor = tau_floor
        self._predictions = RollingQuality(TRUST_WINDOW)
        self._arrived = 0
        self._running: dict[str, SimulatedSequence] = {}
        self._halved: dict[str, SimulatedSequence] = {}  # they wait again, keeping their tokens
        self._jobs = JobFeed(shape.pages * shape.page_tokens) if workload.batch.any() else None
        self._pins = PrefixPins(self._loop)
        self._pins_prefixes = not policy.lockstep
        self._unpins: list[str] = []
        self._order = policy.order
        self._order_changes = self._decisions = 0
        self._decision_s = 0.0

    def run(self) -> ReplayResults:
        """Run until no request waits or runs. RuntimeError if some wait for ever."""
        series = self._series
        while (now_s := self._next_s()) < inf:
            while series.next_s < now_s:
                pages = self._engine.pages_at(series.next_s)
                series.add(self._loop.waiting, len(self._running), pages)
            self._process_events(now_s)
        waiting = self._loop.waiting + (0 if self._jobs is None else len(self._jobs))
        if waiting:
            raise RuntimeError(f"{waiting} requests wait for {self._loop.policy.name}, idle")
        return self._results()

    def _next_s(self) -> float:
        next_s = min(self._arrivals[self._arrived], self._engine.next_s)
        if self._loop.waiting:
            next_s = min(next_s, self._engine.reached_s(self._loop.next_decision_step))
        if self._waits is not None and next_s < inf:
            next_s = min(next_s, self._waits.next_s)
        return next_s

    def _process_events(self, now_s: float) -> None:
        """Process all events of one time, then decide once."""
        engine, loop = self._engine, self._loop
        if engine.next_s <= now_s:
            self._settle(now_s)
        else:
            loop.advance(engine.steps_by(now_s) - loop.steps)
        while self._arrivals[self._arrived] <= now_s:
            self._arrive(self._arrived)
            self._arrived += 1
        if self._jobs is not None:
            self._feed(self._jobs, now_s)
        if loop.due and loop.waiting:
            self._decide(now_s)
        if self._waits is not None and self._waits.next_s <= now_s:
            self._waits.look(loop.policy, self._running_sequences(), now_s)
        if engine.at_boundary:
            engine.compose()

    def _arrive(self, index: int) -> None:
        max_tokens = int(self._max_tokens[index])
        if max_tokens < 1:
            self._columns.gave_up[index] = True
            return
        request = self._workload.request(index)
        if max_tokens < request.max_tokens:
            q10, q25, q50, q75, q90, q95 = np.minimum(request.quantiles, max_tokens).tolist()
            quantiles = q10, q25, q50, q75, q90, q95
            request = replace(request, max_tokens=max_tokens, quantiles=quantiles)
        if self._jobs is not None and request.lane == "batch":
            self._jobs.add(request)
        else:
            self._loop.arrive(request)
            if self._waits is not None:
                self._waits.arrived(self._loop.policy, request)

    def _feed(self, jobs: JobFeed, now_s: float) -> None:
        """Queue further lines of jobs while there is room, and unpin what no line needs."""
        while lines := jobs.claim():
            for request in lines:
                self._loop.arrive(request)
                self._unpins += self._pins.add(request)
        if not len(jobs):
            self._unpins += self._pins.keep(None)
        if self._unpins and self._pins_prefixes:
            self._engine.submit([], now_s, unpins=self._unpins)
        self._unpins = []

    def _settle(self, now_s: float) -> None:
        """Process steps that ended, and the sequences that finished with them."""
        engine, loop = self._engine, self._loop
        finished, returned = engine.settle(), engine.take_returned()
        loop.advance(engine.steps - loop.steps)
        if self._jobs is not None:
            self._pins.lost(engine.take_lost_pins())
        for sequence in finished:
            self._finish(sequence, now_s)
        if returned:
            self._halve(returned)

    def _finish(self, sequence: SimulatedSequence, now_s: float) -> None:
        request, columns = sequence.request, self._columns
        columns.first_token_s[sequence.index] = sequence.first_token_s
        columns.finished_s[sequence.index] = now_s
        columns.preemptions[sequence.index] = sequence.preemptions
        columns.reused_tokens[sequence.index] = sequence.reused_tokens
        del self._running[request.id]
        self._loop.ended(request, sequence.tokens, now_s)
        if self._jobs is not None and request.lane == "batch":
            self._jobs.ended(request)
            self._unpins += self._pins.ended(request)
            return
        if self._tau_floor is not None:
            covered = sequence.tokens <= request.p90
            self._predictions.add(request.median, sequence.tokens, covered=covered)
            if self._loop.judgement_due:
                self._update_trust(self._tau_floor)

    def _update_trust(self, tau_floor: float) -> None:
        """Trust predictions while Kendall's τ of the last finished requests reaches the floor."""
        quality = self._predictions.quality()
        self._loop.trust(quality is None or quality.tau >= tau_floor)

    def _halve(self, returned: Sequences) -> None:
        """Queue what is left of a lock-step batch that ran out of memory again, in halves."""
        for sequence in returned:
            sequence.request = replace(sequence.request, generated=sequence.generated)
            self._halved[sequence.request.id] = self._running.pop(sequence.request.id)
        halved = self._loop.halve([sequence.request for sequence in returned])
        assert halved, f"{self._loop.policy.name} needs lock step but queues no halves"

    def _decide(self, now_s: float) -> None:
        """Remove requests that are too late, then dispatch until the policy returns None."""
        loop = self._loop
        for request in loop.give_up(now_s):
            self._columns.gave_up[int(request.id)] = True
            if self._waits is not None:
                self._waits.estimator.left(request.id)
        while loop.waiting:
            began_s = perf_counter()
            dispatch = loop.dispatch(now_s, self._running_sequences)
            self._decision_s += perf_counter() - began_s
            self._decisions += 1
            if dispatch is None:
                break
            self._submit(dispatch, now_s)
        if loop.policy.order != self._order:
            self._order = loop.policy.order
            self._order_changes += 1

    def _running_sequences(self) -> list[RunningSequence]:
        """The running sequences as the gateway knows them."""
        return [sequence.as_running(self._loop.steps) for sequence in self._running.values()]

    def _submit(self, dispatch: Dispatch, now_s: float) -> None:
        sequences = []
        for request in dispatch.requests:
            sequence = self._halved.pop(request.id, None)
            if sequence is None:
                sequence = self._new_sequence(request, dispatch, now_s)
            self._running[request.id] = sequence
            self._columns.batch_size[sequence.index] = len(dispatch.requests)
            sequences.append(sequence)
        if self._jobs is not None and self._pins_prefixes:
            pins = self._pins.starting(dispatch.requests)
            self._engine.submit(sequences, now_s, pins)
        else:
            self._engine.submit(sequences, now_s)

    def _new_sequence(
        self, request: QueuedRequest, dispatch: Dispatch, now_s: float
    ) -> SimulatedSequence:
        """A sequence for a request that is dispatched for the first time."""
        index = int(request.id)
        self._columns.dispatched_s[index] = now_s
        if self._waits is not None:
            self._waits.started(request, now_s)
        self._columns.overdue[index] = dispatch.overdue
        reserved = self._loop.reserve(request)
        prefix = self._workload.prefix_of(index)
        return SimulatedSequence(index, request, int(self._tokens[index]), reserved, prefix)

    def _results(self) -> ReplayResults:
        columns, statistics = self._columns, self._engine.statistics
        time_s, waiting, running, kv_pages = self._series.columns(3)
        return ReplayResults(
            dispatched_s=columns.dispatched_s,
            first_token_s=columns.first_token_s,
            finished_s=columns.finished_s,
            preemptions=columns.preemptions,
            reused_tokens=columns.reused_tokens,
            batch_size=columns.batch_size,
            overdue=columns.overdue,
            gave_up=columns.gave_up,
            time_s=time_s,
            waiting=waiting,
            running=running,
            kv_pages=kv_pages,
            steps=statistics.steps,
            computed_tokens=statistics.computed_tokens,
            recomputed_tokens=statistics.recomputed_tokens,
            invalid_tokens=statistics.invalid_tokens,
            splits=statistics.splits,
            pins=self._pins.made,
            pins_lost=statistics.pins_lost,
            held_rows=statistics.held_rows,
            busy_s=statistics.busy_s,
            page_seconds=statistics.page_seconds,
            order_changes=self._order_changes,
            decisions=self._decisions,
            decision_s=self._decision_s,
        )


def _engine(policy: Policy, model: EngineModel, workload: Workload) -> SimulatedEngine:
    if policy.lockstep:
        return LockstepEngine(model)
    return ContinuousEngine(model) if workload.plain else LanesEngine(model)
