"""Response ratio of a batch: highest ratio next (HRRN; Magnus, arXiv 2406.04785)."""

from msgspec import Struct


def response_ratio(waited_s: float, serving_s: float) -> float:
    """R = (W + S)/S ≥ 1, with W the longest wait in the batch and S > 0 its serving time."""
    return (max(waited_s, 0.0) + serving_s) / serving_s


class Line(Struct, frozen=True):
    """A rank that changes with time: `offset + (now - origin_s)·slope`; highest goes next."""

    offset: float
    origin_s: float
    slope: float

    def at(self, now_s: float) -> float:
        """The rank at `now_s`."""
        return self.offset + (now_s - self.origin_s) * self.slope


def ratio_line(oldest_s: float, serving_s: float) -> Line:
    """R of a batch as a line of time: it starts at 1 and grows by 1/S each second."""
    return Line(1.0, oldest_s, 1.0 / serving_s)
