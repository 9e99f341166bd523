"""Sequences on their way to a simulated engine: handed over, but not yet heeded."""

from collections import deque
from math import inf

from gateway.replay.cost.model import EngineShape
from gateway.replay.engine.sequence import SimulatedSequence
from gateway.replay.engine.timeline import Timeline


class Submissions:
    """What was handed over at once stays together, in order.

    An order is with the engine a while after it was sent; the step that heeds it is known once
    that falls into steps under way.
    """

    def __init__(self, shape: EngineShape) -> None:
        self._lag_steps = shape.lag_steps
        self._order_s = shape.order_s
        self._sent: deque[tuple[float, list[SimulatedSequence]]] = deque()
        self._heeded: deque[tuple[int, list[SimulatedSequence]]] = deque()

    def send(self, sequences: list[SimulatedSequence], at_s: float) -> None:
        """Hand over sequences, not before any other."""
        self._sent.append((at_s + self._order_s, sequences))

    @property
    def ready_s(self) -> float:
        """When the next order of which no step is known is with the engine; inf for none."""
        return self._sent[0][0] if self._sent else inf

    @property
    def step(self) -> float:
        """The first step that heeds an order; inf for none."""
        return self._heeded[0][0] if self._heeded else inf

    def reach_run(self, timeline: Timeline) -> None:
        """Orders that come in while these steps run; a run ends where one is heeded."""
        while self._sent and self._sent[0][0] <= timeline.ended_s:
            ready_s, sequences = self._sent.popleft()
            step = timeline.boundary(ready_s) + self._lag_steps
            self._heeded.append((step, sequences))
            if timeline.first < step < timeline.last:
                timeline.cut(step)

    def reach_boundary(self, now_s: float, step: int) -> None:
        """Orders that have come in by a boundary, before `step`."""
        while self._sent and self._sent[0][0] <= now_s:
            self._heeded.append((step + self._lag_steps, self._sent.popleft()[1]))

    def take(self, step: float) -> list[SimulatedSequence]:
        """What a step heeds, in order; inf for all that has come in."""
        return [sequence for batch in self.take_batches(step) for sequence in batch]

    def take_batches(self, step: float) -> list[list[SimulatedSequence]]:
        """The same, as it was handed over."""
        taken = []
        while self._heeded and self._heeded[0][0] <= step:
            taken.append(self._heeded.popleft()[1])
        return taken
