"""What a replay asks of a simulated engine, and what both engines do alike."""

from abc import ABC, abstractmethod
from math import inf
from typing import TypeAlias

from gateway.replay.cost.model import EngineModel
from gateway.replay.engine.sequence import EngineStatistics, SimulatedSequence
from gateway.replay.engine.submissions import Submissions
from gateway.replay.engine.timeline import Timeline

Sequences: TypeAlias = list[SimulatedSequence]


class SimulatedEngine(ABC):
    """Runs what is submitted, by a clock that its owner moves on.

    At `next_s` the steps under way end, or an idle engine has work (inf: never). The owner then
    calls `settle`, submits what it decides on at that time, and calls `compose`; `between` says
    that this is due. `steps` have been done by the last `settle`. What a step does is left to the
    subclasses.
    """

    def __init__(self, model: EngineModel) -> None:
        self.work = EngineStatistics()
        self.next_s = inf
        self.steps = 0
        self.between = False
        self._cost, self._shape = model.cost, model.shape
        self._timeline = Timeline(model.cost)
        self._orders = Submissions(model.shape)
        self._under_way = False
        self._now_s = 0.0
        self._arrivals = 0

    def submit(self, sequences: Sequences, at_s: float) -> None:
        """Let sequences run, handed over together, and not before any other."""
        for sequence in sequences:
            self._arrivals += 1
            sequence.arrival = self._arrivals
        self._orders.send(sequences, at_s)
        if self._under_way:
            self._orders.reach_run(self._timeline)
            self.next_s = self._timeline.ended_s
        elif not self.between:
            self.next_s = min(self.next_s, self._orders.ready_s)

    def settle(self) -> Sequences:
        """The steps under way have ended: the sequences that ended with them."""
        self._now_s, self.between = self.next_s, True
        if not self._under_way:
            return []
        self._under_way = False
        return self._stepped()

    def take_broken(self) -> Sequences:
        """Sequences of a batch that ran out of memory: their owner submits them again."""
        return []

    def compose(self) -> None:
        """Begin the next steps, as many as are alike; none where there is nothing to run."""
        self.between = False
        self._orders.reach_boundary(self._now_s, self.steps)
        self._begin_steps()
        if self._under_way:
            self._orders.reach_run(self._timeline)
            self.next_s = self._timeline.ended_s
        else:
            self.next_s = self._orders.ready_s

    @abstractmethod
    def pages_at(self, at_s: float) -> int:
        """Pages held at a time up to `next_s`."""

    def steps_by(self, at_s: float) -> int:
        """Steps done by a time up to `next_s`."""
        return self._timeline.done(at_s) if self._under_way else self.steps

    def reached_s(self, boundary: int) -> float:
        """When a boundary is reached; inf where it is not one of the steps under way."""
        if not self._under_way or boundary > self._timeline.last:
            return inf
        return self._timeline.reached_s(boundary)

    @abstractmethod
    def _stepped(self) -> Sequences:
        """Account for the steps of the timeline, which have ended: the sequences that ended."""

    @abstractmethod
    def _begin_steps(self) -> None:
        """Put the next steps on the timeline and set `_under_way`; neither where none can begin."""
