"""A gateway and its engine, simulated: one run of a workload under a policy.

The gateway decides when the live one does (`gateway.generation.dispatcher`): on every arrival, when
something ended, and every 16 steps while requests wait. What happens at the same time is seen
together.
"""

from math import inf
from time import perf_counter
from typing import Final

import numpy as np
from msgspec.structs import replace

from gateway.replay.costs import EngineModel
from gateway.replay.engine import ContinuousEngine
from gateway.replay.lockstep import LockstepEngine
from gateway.replay.outcomes import Answers, Outcomes, Series
from gateway.replay.sequence import SimulatedSequence
from gateway.replay.stepping import Sequences, SimulatedEngine
from gateway.replay.trust import Trust
from gateway.replay.workload import Workload
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.in_flight import BatchesInFlight
from gateway.scheduling.policies import LockstepPolicy, Policy
from gateway.scheduling.waiting import Waiting

STEPS_BETWEEN_DECISIONS: Final = 16  # while requests wait and nothing ends
SAMPLES: Final = 2_000
TAU_FLOOR: Final = 0.2


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
    return Simulation(workload, policy, engine, tau_floor=tau_floor, sample=sample).run()


class Simulation:
    """One run. The clock jumps from event to event."""

    def __init__(
        self,
        workload: Workload,
        policy: Policy,
        model: EngineModel,
        *,
        tau_floor: float | None,
        sample: int,
    ) -> None:
        self._workload = workload
        self._policy = policy
        self._engine = _engine(policy, model)
        policy.resize(model.shape.pages, model.shape.page_tokens)
        self._arrivals: list[float] = [*workload.arrived_s.tolist(), inf]
        room = model.shape.most_tokens - workload.prompt_tokens
        self._most = np.minimum(workload.max_tokens, room)
        self._tokens = np.minimum(workload.generation_tokens, self._most)
        began_s, ended_s = (self._arrivals[0], self._arrivals[-2]) if len(workload) else (0.0, 0.0)
        self._series = Series(began_s, ended_s - began_s, sample)
        self._answers = Answers(len(workload))
        self._batches = BatchesInFlight()
        self._trust = Trust(tau_floor)
        self._arrived = 0
        self._waiting = 0
        self._running: dict[str, SimulatedSequence] = {}
        self._halved: dict[str, SimulatedSequence] = {}  # they wait again
        self._told_steps = 0  # that admission knows of
        self._told_preemptions = 0
        self._decision_step = STEPS_BETWEEN_DECISIONS
        self._order = policy.order
        self._order_changes = self._decisions = 0
        self._decision_s = 0.0

    def run(self) -> Outcomes:
        """To the end, when nothing waits and nothing runs."""
        series = self._series
        while (now_s := self._next_s()) < inf:
            while series.next_s < now_s:
                pages = self._engine.pages_at(series.next_s)
                series.add(self._waiting, len(self._running), pages)
            self._turn(now_s)
        if self._waiting:
            raise RuntimeError(f"{self._waiting} requests wait for {self._policy.name}, idle")
        return self._outcomes()

    def _next_s(self) -> float:
        next_s = min(self._arrivals[self._arrived], self._engine.next_s)
        if self._waiting:
            next_s = min(next_s, self._engine.reached_s(self._decision_step))
        return next_s

    def _turn(self, now_s: float) -> None:
        """All that happens at one time, and the one decision on it."""
        engine = self._engine
        decide = self._settle(now_s) if engine.next_s <= now_s else True
        while self._arrivals[self._arrived] <= now_s:
            self._arrive(self._arrived)
            self._arrived += 1
            decide = True
        if decide and self._waiting:
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
        self._policy.arrive(request)
        self._waiting += 1

    def _settle(self, now_s: float) -> bool:
        """Steps ended; whether that calls for a decision."""
        engine, before = self._engine, self._engine.steps
        finished, broken = engine.settle(), engine.take_broken()
        if finished or broken:
            self._tell_steps(engine.steps)
            for sequence in finished:
                self._end(sequence, now_s)
            self._count_preemptions(len(finished) if self._waiting else 0)
            if broken:
                self._halve(broken)
            return True
        return engine.steps > before and engine.steps % STEPS_BETWEEN_DECISIONS == 0

    def _tell_steps(self, steps: int) -> None:
        if steps > self._told_steps:
            self._policy.admission.advance(steps - self._told_steps)
            self._told_steps = steps

    def _end(self, sequence: SimulatedSequence, now_s: float) -> None:
        request, policy, answers = sequence.request, self._policy, self._answers
        answers.first_token_s[sequence.place] = sequence.first_token_s
        answers.finished_s[sequence.place] = now_s
        answers.preemptions[sequence.place] = sequence.preemptions
        del self._running[request.id]
        policy.ended(request, sequence.tokens, now_s)
        outcome = self._batches.settle(request.id, sequence.tokens, now_s)
        if outcome is not None:
            policy.observe(*outcome)
        trusted = self._trust.learn(request, sequence.tokens)
        if trusted is not None:
            policy.trust(trusted)

    def _count_preemptions(self, ended: int) -> None:
        preemptions = self._engine.work.preemptions
        self._policy.admission.observed(ended, preemptions - self._told_preemptions)
        self._told_preemptions = preemptions

    def _halve(self, broken: Sequences) -> None:
        """A batch in lock step ran out of memory: what is left of it waits again, in two halves."""
        assert isinstance(self._policy, LockstepPolicy)
        for sequence in broken:
            request_id = sequence.request.id
            self._halved[request_id] = self._running.pop(request_id)
            self._batches.forget(request_id)
        self._waiting += len(broken)
        self._policy.halve([sequence.request for sequence in broken])

    def _decide(self, now_s: float) -> None:
        """Dispatch until the policy has no more."""
        policy = self._policy
        self._tell_steps(self._engine.steps_by(now_s))
        cycles = self._told_steps // STEPS_BETWEEN_DECISIONS
        self._decision_step = (cycles + 1) * STEPS_BETWEEN_DECISIONS
        for request in policy.give_up(now_s):
            self._answers.gave_up[int(request.id)] = True
            self._waiting -= 1
        while self._waiting:
            dispatch = self._dispatch(now_s)
            if dispatch is None:
                break
            self._send(dispatch, now_s)
        if policy.order != self._order:
            self._order = policy.order
            self._order_changes += 1

    def _dispatch(self, now_s: float) -> Dispatch | None:
        policy, admission = self._policy, self._policy.admission
        stale = admission.stale
        running = [s.known(self._told_steps) for s in self._running.values()] if stale else []
        began_s = perf_counter()
        if stale:
            admission.refresh(running)
        dispatch = policy.dispatch(now_s)
        self._decision_s += perf_counter() - began_s
        self._decisions += 1
        return dispatch

    def _send(self, dispatch: Dispatch, now_s: float) -> None:
        sequences = []
        for request in dispatch.requests:
            sequence = self._halved.pop(request.id, None) or self._new(request, dispatch, now_s)
            self._running[request.id] = sequence
            sequences.append(sequence)
        self._waiting -= len(sequences)
        self._batches.begin(dispatch, now_s)
        self._engine.submit(sequences, now_s)

    def _new(self, request: Waiting, dispatch: Dispatch, now_s: float) -> SimulatedSequence:
        """A sequence for the engine; those of a broken batch go on as they are."""
        place = int(request.id)
        self._answers.dispatched_s[place] = now_s
        self._answers.overdue[place] = dispatch.overdue
        reserved = self._policy.admission.reserve(request)
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
