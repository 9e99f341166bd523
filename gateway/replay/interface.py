"""What a replay asks of a simulated engine."""

from typing import Protocol, TypeAlias

from gateway.replay.sequence import SimulatedSequence
from gateway.replay.work import Work

Sequences: TypeAlias = list[SimulatedSequence]


class SimulatedEngine(Protocol):
    """Runs what is submitted, by a clock that its owner moves on.

    At `next_s` the steps under way end, or an idle engine has work (inf: never). The owner then
    calls `settle`, submits what it decides on at that time, and calls `compose`; `between` tells
    that this is due. `steps` have been done by the last `settle`.
    """

    work: Work
    next_s: float
    steps: int
    between: bool

    def submit(self, sequences: Sequences, at_s: float) -> None:
        """Let sequences run, handed over together, and not before any other."""

    def settle(self) -> Sequences:
        """The steps under way have ended: the sequences that ended with them."""

    def take_broken(self) -> Sequences:
        """Sequences of a batch that ran out of memory: their owner submits them again."""

    def compose(self) -> None:
        """Begin the next steps, as many as are alike; none where there is nothing to run."""

    def steps_by(self, at_s: float) -> int:
        """Steps done by a time up to `next_s`."""

    def reached_s(self, boundary: int) -> float:
        """When so many steps will be done; inf where they are not under way."""

    def pages_at(self, at_s: float) -> int:
        """Pages held at a time up to `next_s`."""
