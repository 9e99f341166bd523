"""Simulates a gateway with its engine: one run of a workload under a policy.

The live gateway runs the same `ControlLoop`. Simultaneous events lead to one decision.
"""

from collections import deque
from collections.abc import Sequence
from math import inf
from time import thread_time
from typing import Final

import numpy as np
from msgspec import Struct
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
    return Simulation(
        workload,
        policy,
        [replayed_engine(engine, policy, workload)],
        tau_floor=tau_floor,
        max_samples=max_samples,
        waits=waits,
    ).run()


class ReplayedEngine(Struct, frozen=True):
    """A simulated engine of a run.

    `cost` is what admission weighs by; None: it does not know it. `most_background` sequences of
    jobs run at once at most; None: as many as interactive ones.
    """

    simulated: SimulatedEngine
    shape: EngineShape
    cost: EngineCost | None = None
    most_background: int | None = None


def replayed_engine(model: EngineModel, policy: Policy, workload: Workload) -> ReplayedEngine:
    """An idle engine that can run these requests under this policy."""
    simulated = _engine(policy, model, workload)
    return ReplayedEngine(simulated, model.shape, model.admission_cost, model.most_background)


class Simulation:
    """One run. The clock jumps from event to event.

    Several engines have one queue in front of them: the policy was built for as many, and the
    workload has no lines of jobs. With `columns`, which other simulations of the same workload may
    share, this one gets no requests but those that are `offer`ed.
    """

    def __init__(
        self,
        workload: Workload,
        policy: Policy,
        engines: Sequence[ReplayedEngine],
        *,
        tau_floor: float | None,
        max_samples: int,
        waits: ReplayedWaits | None = None,
        columns: RequestColumns | None = None,
    ) -> None:
        self._workload = workload
        self._waits = waits
        self._loop = ControlLoop(policy, self._running_on)
        self._engines = [engine.simulated for engine in engines]
        for number, engine in enumerate(engines):
            shape = engine.shape
            self._loop.resize(shape.pages, shape.page_tokens, shape.max_sequences, engine=number)
            self._loop.price(engine.cost, engine=number)
        self._loop.limit_batch(engines[0].most_background)
        self._several = len(engines) > 1
        self._arrivals: list[float] = workload.arrived_s.tolist()
        self._to_come = deque(range(len(workload)) if columns is None else ())
        most_tokens = min(engine.shape.max_sequence_tokens for engine in engines)
        self._max_tokens = np.minimum(workload.max_tokens, most_tokens - workload.prompt_tokens)
        self._tokens = np.minimum(workload.generation_tokens, self._max_tokens)
        began_s, ended_s = (self._arrivals[0], self._arrivals[-1]) if len(workload) else (0.0, 0.0)
        self._series = SeriesSampler(began_s, ended_s - began_s, max_samples)
        self._columns = RequestColumns(len(workload)) if columns is None else columns
        self._tau_floor = tau_floor
        self._predictions = RollingQuality(TRUST_WINDOW)
        self._running: list[dict[str, SimulatedSequence]] = [{} for _ in engines]
        self._halved: dict[str, SimulatedSequence] = {}  # they wait again, keeping their tokens
        self._page_tokens = engines[0].shape.page_tokens
        pool_tokens = engines[0].shape.pages * self._page_tokens
        self._jobs = JobFeed(pool_tokens) if workload.batch.any() else None
        self._pins = PrefixPins(self._loop)
        self._pins_prefixes = not policy.lockstep
        self._unpins: list[str] = []
        self._queued_tokens = 0  # of prompts
        self._order = policy.order
        self._order_changes = self._decisions = 0
        self._decision_s = 0.0

    @property
    def requests(self) -> int:
        """Requests that wait, run or are offered."""
        return len(self._to_come) + self._loop.waiting + sum(map(len, self._running))

    def queued_tokens(self) -> int:
        """Tokens of the prompts that are offered or wait."""
        offered = sum(int(self._workload.prompt_tokens[index]) for index in self._to_come)
        return offered + self._queued_tokens

    def held_tokens(self, at_s: float) -> int:
        """KV tokens in the engines' pools at a time up to the next event, in whole pages."""
        return sum(engine.pages_at(at_s) for engine in self._engines) * self._page_tokens

    def offer(self, index: int) -> None:
        """The request at `index` arrives, at its time."""
        self._to_come.append(index)

    def run(self) -> ReplayResults:
        """Run until no request waits or runs. RuntimeError if some wait for ever."""
        self.run_until(inf)
        waiting = self._loop.waiting + (0 if self._jobs is None else len(self._jobs))
        if waiting:
            raise RuntimeError(f"{waiting} requests wait for {self._loop.policy.name}, idle")
        return self._results()

    def run_until(self, end_s: float) -> None:
        """Process all events before `end_s`."""
        series = self._series
        while (now_s := self._next_s()) < end_s:
            while series.next_s < now_s:
                pages = sum(engine.pages_at(series.next_s) for engine in self._engines)
                series.add(self._loop.waiting, sum(map(len, self._running)), pages)
            self._process_events(now_s)

    def _next_s(self) -> float:
        next_s = min([engine.next_s for engine in self._engines])
        if self._to_come:
            next_s = min(next_s, self._arrivals[self._to_come[0]])
        if self._loop.waiting:
            for number, engine in enumerate(self._engines):
                next_s = min(next_s, engine.reached_s(self._loop.next_decision_step(number)))
        if self._waits is not None and next_s < inf:
            next_s = min(next_s, self._waits.next_s)
        return next_s

    def _process_events(self, now_s: float) -> None:
        """Process all events of one time, then decide once."""
        loop, to_come = self._loop, self._to_come
        arrives = bool(to_come) and self._arrivals[to_come[0]] <= now_s
        decides = not self._several or arrives or loop.waiting > 0
        for number, engine in enumerate(self._engines):
            if engine.next_s <= now_s:
                self._settle(number, now_s)
            elif decides:  # by steps that matter to no other event
                loop.advance(engine.steps_by(now_s) - loop.engine_steps[number], number)
        while to_come and self._arrivals[to_come[0]] <= now_s:
            self._arrive(to_come.popleft())
        if self._jobs is not None:
            self._feed(self._jobs, now_s)
        if loop.due and loop.waiting:
            self._decide(now_s)
        if self._waits is not None and self._waits.next_s <= now_s:
            self._waits.look(loop.policy, self._running_sequences(), now_s)
        for engine in self._engines:
            if engine.at_boundary:
                engine.compose()

    def _arrive(self, index: int) -> None:
        max_tokens = int(self._max_tokens[index])
        if max_tokens < 1:
            self._columns.gave_up[index] = True
            return
        request = self._workload.request(index)
        if self._several:
            request = replace(request, blocks=self._workload.blocks(index))
        if max_tokens < request.max_tokens:
            q10, q25, q50, q75, q90, q95 = np.minimum(request.quantiles, max_tokens).tolist()
            quantiles = q10, q25, q50, q75, q90, q95
            request = replace(request, max_tokens=max_tokens, quantiles=quantiles)
        if self._jobs is not None and request.lane == "batch":
            self._jobs.add(request)
        else:
            self._queued_tokens += request.prompt_tokens
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
            self._engines[0].submit([], now_s, unpins=self._unpins)
        self._unpins = []

    def _settle(self, number: int, now_s: float) -> None:
        """Process an engine's steps that ended, and the sequences that finished with them."""
        engine, loop = self._engines[number], self._loop
        finished, returned = engine.settle(), engine.take_returned()
        loop.advance(engine.steps - loop.engine_steps[number], number)
        if self._jobs is not None:
            self._pins.lost(engine.take_lost_pins())
        for sequence in finished:
            del self._running[number][sequence.request.id]
            self._finish(sequence, now_s)
        if returned:
            self._halve(returned)

    def _finish(self, sequence: SimulatedSequence, now_s: float) -> None:
        request, columns = sequence.request, self._columns
        columns.first_token_s[sequence.index] = sequence.first_token_s
        columns.finished_s[sequence.index] = now_s
        columns.preemptions[sequence.index] = sequence.preemptions
        columns.reused_tokens[sequence.index] = sequence.reused_tokens
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
            self._halved[sequence.request.id] = self._running[0].pop(sequence.request.id)
        halved = self._loop.halve([sequence.request for sequence in returned])
        assert halved, f"{self._loop.policy.name} needs lock step but queues no halves"

    def _decide(self, now_s: float) -> None:
        """Remove requests that are too late, then dispatch until the policy returns None."""
        loop = self._loop
        for request in loop.give_up(now_s):
            self._columns.gave_up[int(request.id)] = True
            self._left_queue(request)
            if self._waits is not None:
                self._waits.estimator.left(request.id)
        while loop.waiting:
            began_s = thread_time()
            dispatch = loop.dispatch(now_s, self._running_sequences)
            self._decision_s += thread_time() - began_s
            self._decisions += 1
            if dispatch is None:
                break
            self._submit(dispatch, now_s)
        if loop.policy.order != self._order:
            self._order = loop.policy.order
            self._order_changes += 1

    def _running_sequences(self) -> list[RunningSequence]:
        """The running sequences as the gateway knows them."""
        return [each for number in range(len(self._engines)) for each in self._running_on(number)]

    def _running_on(self, number: int) -> list[RunningSequence]:
        """The same of one engine."""
        steps = self._loop.engine_steps[number]
        return [each.as_running(steps, number) for each in self._running[number].values()]

    def _submit(self, dispatch: Dispatch, now_s: float) -> None:
        submitted: dict[int, list[SimulatedSequence]] = {}
        for request in dispatch.requests:
            sequence = self._halved.pop(request.id, None)
            if sequence is None:
                sequence = self._new_sequence(request, dispatch, now_s)
            number = self._loop.engine_of(request.id)
            self._running[number][request.id] = sequence
            self._columns.batch_size[sequence.index] = len(dispatch.requests)
            submitted.setdefault(number, []).append(sequence)
        for number, sequences in submitted.items():
            if self._jobs is not None and self._pins_prefixes:
                pins = self._pins.starting(dispatch.requests)
                self._engines[number].submit(sequences, now_s, pins)
            else:
                self._engines[number].submit(sequences, now_s)

    def _new_sequence(
        self, request: QueuedRequest, dispatch: Dispatch, now_s: float
    ) -> SimulatedSequence:
        """A sequence for a request that is dispatched for the first time."""
        index = int(request.id)
        self._left_queue(request)
        self._columns.dispatched_s[index] = now_s
        if self._waits is not None:
            self._waits.started(request, now_s)
        self._columns.overdue[index] = dispatch.overdue
        reserved = self._loop.reserve(request)
        prefix = self._workload.prefix_of(index)
        return SimulatedSequence(index, request, int(self._tokens[index]), reserved, prefix)

    def _left_queue(self, request: QueuedRequest) -> None:
        if request.lane == "interactive":
            self._queued_tokens -= request.prompt_tokens

    def _results(self) -> ReplayResults:
        columns = self._columns
        totals = [engine.statistics for engine in self._engines]
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
            steps=sum(each.steps for each in totals),
            computed_tokens=sum(each.computed_tokens for each in totals),
            recomputed_tokens=sum(each.recomputed_tokens for each in totals),
            invalid_tokens=sum(each.invalid_tokens for each in totals),
            splits=sum(each.splits for each in totals),
            pins=self._pins.made,
            pins_lost=sum(each.pins_lost for each in totals),
            held_rows=sum(each.held_rows for each in totals),
            busy_s=sum(each.busy_s for each in totals),
            page_seconds=sum(each.page_seconds for each in totals),
            order_changes=self._order_changes,
            decisions=self._decisions,
            decision_s=self._decision_s,
        )


def _engine(policy: Policy, model: EngineModel, workload: Workload) -> SimulatedEngine:
    if policy.lockstep:
        return LockstepEngine(model)
    return ContinuousEngine(model) if workload.plain else LanesEngine(model)
