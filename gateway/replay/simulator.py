"""A gateway and its engine, simulated: one run of a workload under a policy.

The live gateway runs the same `ControlLoop`. What happens at the same time is decided on together.
"""

from math import inf
from time import perf_counter
from typing import Final

import numpy as np
from msgspec.structs import replace

from gateway.prediction.serving.drift import Rolling
from gateway.replay.cost.model import EngineModel, EngineShape
from gateway.replay.engine.base import Sequences, SimulatedEngine
from gateway.replay.engine.continuous import ContinuousEngine
from gateway.replay.engine.lockstep import LockstepEngine
from gateway.replay.engine.sequence import SimulatedSequence
from gateway.replay.measure.outcomes import Answers, Outcomes, Series
from gateway.replay.workload.workload import Workload
from gateway.scheduling.control_loop import ControlLoop
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.policy import LockstepPolicy, Policy
from gateway.scheduling.requests import QueuedRequest, RunningSequence

SAMPLES: Final = 2_000
TAU_FLOOR: Final = 0.2
TRUST_WINDOW: Final = 500  # outcomes that Kendall's τ is taken over


def replay(
    workload: Workload,
    policy: Policy,
    engine: EngineModel,
    *,
    tau_floor: float | None = TAU_FLOOR,
    sample: int = SAMPLES,
) -> Outcomes:
    """What would have become of each request; the policy must be new.

    Answers are cut to what the engine's context leaves them. `tau_floor` is for the rolling τ below
    which the policy is told not to trust predictions, None for never. `sample` bounds the series.
    """
    simulated = _engine(policy, engine)
    return Simulation(
        workload, policy, simulated, engine.shape, tau_floor=tau_floor, sample=sample
    ).run()


class Simulation:
    """One run. The clock jumps from event to event."""

    def __init__(
        self,
        workload: Workload,
        policy: Policy,
        engine: SimulatedEngine,
        shape: EngineShape,
        *,
        tau_floor: float | None,
        sample: int,
    ) -> None:
        self._workload = workload
        self._loop = ControlLoop(policy)
        self._engine = engine
        self._loop.resize(shape.pages, shape.page_tokens)
        self._arrivals: list[float] = [*workload.arrived_s.tolist(), inf]
        room = shape.most_tokens - workload.prompt_tokens
        self._most = np.minimum(workload.max_tokens, room)
        self._tokens = np.minimum(workload.generation_tokens, self._most)
        began_s, ended_s = (self._arrivals[0], self._arrivals[-2]) if len(workload) else (0.0, 0.0)
        self._series = Series(began_s, ended_s - began_s, sample)
        self._answers = Answers(len(workload))
        self._tau_floor = tau_floor
        self._predictions = Rolling(TRUST_WINDOW)
        self._arrived = 0
        self._running: dict[str, SimulatedSequence] = {}
        self._halved: dict[str, SimulatedSequence] = {}  # they wait again
        self._known_preemptions = 0  # reported to the loop
        self._order = policy.order
        self._order_changes = self._decisions = 0
        self._decision_s = 0.0

    def run(self) -> Outcomes:
        """To the end, when nothing waits and nothing runs."""
        series = self._series
        while (now_s := self._next_s()) < inf:
            while series.next_s < now_s:
                pages = self._engine.pages_at(series.next_s)
                series.add(self._loop.waiting, len(self._running), pages)
            self._turn(now_s)
        if self._loop.waiting:
            name = self._loop.policy.name
            raise RuntimeError(f"{self._loop.waiting} requests wait for {name}, idle")
        return self._outcomes()

    def _next_s(self) -> float:
        next_s = min(self._arrivals[self._arrived], self._engine.next_s)
        if self._loop.waiting:
            next_s = min(next_s, self._engine.reached_s(self._loop.next_decision_step))
        return next_s

    def _turn(self, now_s: float) -> None:
        """All that happens at one time, and the one decision on it."""
        engine, loop = self._engine, self._loop
        if engine.next_s <= now_s:
            self._settle(now_s)
        else:
            loop.advance(engine.steps_by(now_s) - loop.steps)
        while self._arrivals[self._arrived] <= now_s:
            self._arrive(self._arrived)
            self._arrived += 1
        if loop.due and loop.waiting:
            self._decide(now_s)
        if engine.between:
            engine.compose()

    def _arrive(self, place: int) -> None:
        most = int(self._most[place])
        if most < 1:
            self._answers.gave_up[place] = True
            return
        request = self._workload.waiting(place)
        if most < request.max_tokens:
            low, lower, middle, upper, high, highest = np.minimum(request.quantiles, most).tolist()
            quantiles = low, lower, middle, upper, high, highest
            request = replace(request, max_tokens=most, quantiles=quantiles)
        self._loop.arrive(request)

    def _settle(self, now_s: float) -> None:
        """Steps ended, and perhaps sequences with them."""
        engine, loop = self._engine, self._loop
        finished, broken = engine.settle(), engine.take_broken()
        loop.advance(engine.steps - loop.steps)
        loop.preempted(engine.work.preemptions - self._known_preemptions)
        self._known_preemptions = engine.work.preemptions
        for sequence in finished:
            self._end(sequence, now_s)
        if finished:
            loop.settle()
        if broken:
            self._halve(broken)

    def _end(self, sequence: SimulatedSequence, now_s: float) -> None:
        request, answers = sequence.request, self._answers
        answers.first_token_s[sequence.place] = sequence.first_token_s
        answers.finished_s[sequence.place] = now_s
        answers.preemptions[sequence.place] = sequence.preemptions
        del self._running[request.id]
        self._loop.ended(request, sequence.tokens, now_s)
        if self._tau_floor is not None:
            covered = sequence.tokens <= request.p90
            self._predictions.add(request.median, sequence.tokens, covered=covered)
            if self._loop.judgement_due:
                self._judge(self._tau_floor)

    def _judge(self, tau_floor: float) -> None:
        """Trust predictions while Kendall's τ of the last outcomes is above the floor."""
        quality = self._predictions.quality()
        self._loop.trust(quality is None or quality.tau >= tau_floor)

    def _halve(self, broken: Sequences) -> None:
        """A batch in lock step ran out of memory: what is left of it waits again, in two halves."""
        for sequence in broken:
            self._halved[sequence.request.id] = self._running.pop(sequence.request.id)
        self._loop.halve([sequence.request for sequence in broken])

    def _decide(self, now_s: float) -> None:
        """Dispatch until the policy has no more."""
        loop = self._loop
        for request in loop.give_up(now_s):
            self._answers.gave_up[int(request.id)] = True
        while loop.waiting:
            began_s = perf_counter()
            dispatch = loop.dispatch(now_s, self._known)
            self._decision_s += perf_counter() - began_s
            self._decisions += 1
            if dispatch is None:
                break
            self._send(dispatch, now_s)
        if loop.policy.order != self._order:
            self._order = loop.policy.order
            self._order_changes += 1

    def _known(self) -> list[RunningSequence]:
        """What the gateway knows of what runs."""
        return [sequence.known(self._loop.steps) for sequence in self._running.values()]

    def _send(self, dispatch: Dispatch, now_s: float) -> None:
        sequences = []
        for request in dispatch.requests:
            sequence = self._halved.pop(request.id, None) or self._new(request, dispatch, now_s)
            self._running[request.id] = sequence
            sequences.append(sequence)
        self._engine.submit(sequences, now_s)

    def _new(self, request: QueuedRequest, dispatch: Dispatch, now_s: float) -> SimulatedSequence:
        """A sequence for the engine; those of a broken batch go on as they are."""
        place = int(request.id)
        self._answers.dispatched_s[place] = now_s
        self._answers.overdue[place] = dispatch.overdue
        reserved = self._loop.reserve(request)
        return SimulatedSequence(place, request, int(self._tokens[place]), reserved)

    def _outcomes(self) -> Outcomes:
        answers, work = self._answers, self._engine.work
        time_s, waiting, running, kv_pages = self._series.columns(3)
        return Outcomes(
            dispatched_s=answers.dispatched_s,
            first_token_s=answers.first_token_s,
            finished_s=answers.finished_s,
            preemptions=answers.preemptions,
            overdue=answers.overdue,
            gave_up=answers.gave_up,
            time_s=time_s,
            waiting=waiting,
            running=running,
            kv_pages=kv_pages,
            steps=work.steps,
            computed_tokens=work.computed_tokens,
            recomputed_tokens=work.recomputed_tokens,
            busy_s=work.busy_s,
            page_seconds=work.page_seconds,
            order_changes=self._order_changes,
            decisions=self._decisions,
            decision_s=self._decision_s,
        )


def _engine(policy: Policy, model: EngineModel) -> SimulatedEngine:
    if policy.lockstep:
        return LockstepEngine(model, owner_halves=isinstance(policy, LockstepPolicy))
    return ContinuousEngine(model)
