"""Sequences submitted to a simulated engine that it has not taken yet."""

from collections import deque
from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from gateway.replay.cost.model import EngineShape
from gateway.replay.engine.sequence import SimulatedSequence
from gateway.replay.engine.timeline import Timeline
from gateway.scheduling.requests import SharedPrefix


class Submission(NamedTuple):
    """Sequences submitted together, prefixes to pin before they start, and prefixes to unpin."""

    sequences: list[SimulatedSequence]
    pins: Sequence[SharedPrefix] = ()
    unpins: Sequence[str] = ()


class Submissions:
    """Submissions in order; sequences submitted together stay together.

    A submission reaches the engine `submit_delay_s` after it was sent. The step that takes it is
    known once this time falls into running steps: `lag_steps` after the end of the step then.
    """

    def __init__(self, shape: EngineShape) -> None:
        self._lag_steps = shape.lag_steps
        self._submit_delay_s = shape.submit_delay_s
        self._in_transit: deque[tuple[float, Submission]] = deque()
        self._scheduled: deque[tuple[int, Submission]] = deque()

    def submit(self, submission: Submission, at_s: float) -> None:
        """Submit at `at_s` or later than every submission before."""
        self._in_transit.append((at_s + self._submit_delay_s, submission))

    @property
    def ready_s(self) -> float:
        """When the next submission in transit reaches the engine; inf for none."""
        return self._in_transit[0][0] if self._in_transit else inf

    @property
    def step(self) -> float:
        """The next step that takes a submission; inf for none."""
        return self._scheduled[0][0] if self._scheduled else inf

    def receive_during_run(self, timeline: Timeline) -> None:
        """Receive submissions during running steps; the run is cut at a step that takes one."""
        while self._in_transit and self._in_transit[0][0] <= timeline.ended_s:
            ready_s, submission = self._in_transit.popleft()
            step = timeline.boundary(ready_s) + self._lag_steps
            self._scheduled.append((step, submission))
            if timeline.first < step < timeline.last:
                timeline.cut(step)

    def receive_by_boundary(self, now_s: float, step: int) -> None:
        """Receive submissions that arrive by a boundary, before `step`."""
        while self._in_transit and self._in_transit[0][0] <= now_s:
            self._scheduled.append((step + self._lag_steps, self._in_transit.popleft()[1]))

    def take(self, step: float) -> list[SimulatedSequence]:
        """The sequences that a step takes, in order; inf for all received ones."""
        return [
            sequence for submission in self.take_each(step) for sequence in submission.sequences
        ]

    def take_each(self, step: float) -> list[Submission]:
        """The same as `take`, by submission."""
        taken = []
        while self._scheduled and self._scheduled[0][0] <= step:
            taken.append(self._scheduled.popleft()[1])
        return taken
