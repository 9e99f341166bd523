"""The course of a job, and its band at the times at which it is judged."""

from typing import Final, TypeAlias

from msgspec import Struct

Point: TypeAlias = tuple[float, float]
"""Seconds since 1970, and the work done until then."""

JUDGED_AT: Final = (0.1, 0.3, 0.5, 0.7, 0.9)  # shares of the work


class Course(Struct, frozen=True):
    """A job from its start to the end of its last line; `points` begin with its start.

    `bands` are those that the gateway has shown: time, P10 and P90.
    """

    work: float
    points: list[Point]
    ended: float
    bands: list[tuple[float, float, float]] = []

    def at(self, share: float) -> float | None:
        """The time at which this share of the work was done; None if that was seen at the end."""
        return next((at for at, done in self.points if share * self.work <= done < self.work), None)
