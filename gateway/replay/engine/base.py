"""The interface of a simulated engine, and the part that both engines share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import inf
from typing import TypeAlias

from gateway.replay.cost.model import EngineModel
from gateway.replay.engine.sequence import EngineStatistics, SimulatedSequence
from gateway.replay.engine.submissions import Submission, Submissions
from gateway.replay.engine.timeline import Timeline
from gateway.scheduling.requests import SharedPrefix

Sequences: TypeAlias = list[SimulatedSequence]


class SimulatedEngine(ABC):
    """Runs submitted sequences; its owner advances the clock.

    At `next_s` the running steps end, or an idle engine receives work (inf: never). The owner then
    calls `settle`, submits what it dispatches at that time, and calls `compose`; `at_boundary` is
    true between these two calls. `steps` is the number of steps completed by the last `settle`.
    Subclasses define what a step does.
    """

    def __init__(self, model: EngineModel) -> None:
        self.statistics = EngineStatistics()
        self.next_s = inf
        self.steps = 0
        self.at_boundary = False
        self._cost, self._shape = model.cost, model.shape
        self._timeline = Timeline(model.cost)
        self._submissions = Submissions(model.shape)
        self._stepping = False
        self._now_s = 0.0
        self._arrivals = 0

    def submit(
        self,
        sequences: Sequences,
        at_s: float,
        pins: Sequence[SharedPrefix] = (),
        unpins: Sequence[str] = (),
    ) -> None:
        """Submit sequences together, at `at_s` or later than every submission before.

        `pins` are made before they start. In lock step neither pins nor `unpins` have an effect.
        """
        for sequence in sequences:
            self._arrivals += 1
            sequence.arrival = self._arrivals
        self._submissions.submit(Submission(sequences, pins, unpins), at_s)
        if self._stepping:
            self._submissions.receive_during_run(self._timeline)
            self.next_s = self._timeline.ended_s
        elif not self.at_boundary:
            self.next_s = min(self.next_s, self._submissions.ready_s)

    def settle(self) -> Sequences:
        """End the running steps; returns the sequences that finished with them."""
        self._now_s, self.at_boundary = self.next_s, True
        if not self._stepping:
            return []
        self._stepping = False
        return self._finish_steps()

    def take_returned(self) -> Sequences:
        """What is left of a lock-step batch that ran out of memory; its owner submits it again."""
        return []

    def take_lost_pins(self) -> list[str]:
        """The ids of prefixes whose pins were released for lack of memory, or not made."""
        return []

    def compose(self) -> None:
        """Begin the next run of equal steps, if there is anything to run."""
        self.at_boundary = False
        self._submissions.receive_by_boundary(self._now_s, self.steps)
        self._begin_steps()
        if self._stepping:
            self._submissions.receive_during_run(self._timeline)
            self.next_s = self._timeline.ended_s
        else:
            self.next_s = self._submissions.ready_s

    @abstractmethod
    def pages_at(self, at_s: float) -> int:
        """Pages in use at a time up to `next_s`."""

    def steps_by(self, at_s: float) -> int:
        """Steps completed at a time up to `next_s`."""
        return self._timeline.steps_done(at_s) if self._stepping else self.steps

    def reached_s(self, boundary: int) -> float:
        """The time of a boundary between steps; inf if it lies after the running steps."""
        if not self._stepping or boundary > self._timeline.last:
            return inf
        return self._timeline.reached_s(boundary)

    @abstractmethod
    def _finish_steps(self) -> Sequences:
        """Account for the steps on the timeline, which ended; returns the finished sequences."""

    @abstractmethod
    def _begin_steps(self) -> None:
        """Put the next steps on the timeline and set `_stepping`, or do neither if none can run."""
