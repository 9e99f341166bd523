"""What both simulated engines have in common: orders, and the steps under way."""

from math import inf

from gateway.replay.costs import EngineModel
from gateway.replay.interface import Sequences
from gateway.replay.orders import Orders
from gateway.replay.timeline import Timeline
from gateway.replay.work import Work


class SteppingEngine:
    """Takes orders and tells how far its steps are; what a step does is its heirs' business."""

    def __init__(self, model: EngineModel) -> None:
        self.work = Work()
        self.next_s = inf
        self.steps = 0
        self.between = False
        self._cost, self._shape = model.cost, model.shape
        self._timeline = Timeline(model.cost)
        self._orders = Orders(model.shape)
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

    def steps_by(self, at_s: float) -> int:
        """Steps done by a time up to `next_s`."""
        return self._timeline.done(at_s) if self._under_way else self.steps

    def reached_s(self, boundary: int) -> float:
        """When so many steps will be done; inf where they are not under way."""
        if not self._under_way or boundary > self._timeline.last:
            return inf
        return self._timeline.at(boundary)
