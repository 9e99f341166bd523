"""A reference clock: when each request would have started under first come, first served (FCFS).

Any order that keeps the engine busy completes work at about the same rate. So a request's turn
under FCFS comes when as much work has started, of whichever requests, as had arrived before it.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from msgspec import Struct

T = TypeVar("T")

UNITS_PER_WORK: Final = 1024  # work is summed in whole parts, so that sums are exact

LONGEST_WAIT_DECAY: Final = 0.999  # per turn: a half-life of 693 turns
MEAN_DECAY: Final = 0.995  # of a request's weight in the mean, per later request
MAX_CREDIT_RUNS: Final = 2.0  # bound of the waiting credit, in mean serving times
MAX_CREDIT_WAITS: Final = 4.0  # bound of the waiting credit, in longest waits
MIN_RESPONSE_S: Final = 1e-3  # bound of T


class Turn(Struct, Generic[T], eq=False):
    """A request in the order of arrival, and its work in parts; `came` once its turn has come."""

    entry: T
    parts: int
    came: bool = False


class FcfsReference(Generic[T]):
    """Requests in order of arrival, and which of them FCFS would have started by now.

    Work may have any unit, the same everywhere. Each call costs O(1) amortised.
    """

    def __init__(self) -> None:
        self._queue: deque[Turn[T]] = deque()
        self._ahead = 0  # work that arrived before the first of the queue
        self._started = 0

    def __len__(self) -> int:
        return len(self._queue)

    def arrive(self, entry: T, work: float) -> Turn[T]:
        """A request with this amount of work was queued."""
        turn = Turn(entry, _parts(work))
        self._queue.append(turn)
        return turn

    def revise(self, turn: Turn[T], work: float) -> None:
        """A request that has not started has another amount of work than was taken at arrival."""
        parts = _parts(work)
        if turn.came:
            self._ahead += parts - turn.parts
        turn.parts = parts

    def start(self, work: float) -> None:
        """Work of this amount was started or withdrawn."""
        self._started += _parts(work)

    def due(self) -> Iterator[T]:
        """Requests whose turn came since the last call, in order of arrival."""
        while self._queue and self._ahead <= self._started:
            turn = self._queue.popleft()
            turn.came = True
            self._ahead += turn.parts
            yield turn.entry


def _parts(work: float) -> int:
    return round(work * UNITS_PER_WORK)


class WaitingCredit(Struct, eq=False):
    """What a request of serving time S is taken to have waited before its arrival.

    It arrived as `number`, when the mean run and the longest wait were these.
    """

    number: int
    serving_s: float
    weight: float
    mean_s: float
    longest_s: float

    @property
    def seconds(self) -> float:
        """The credit in seconds."""
        return min(self.serving_s, MAX_CREDIT_RUNS * self.mean_s, MAX_CREDIT_WAITS * self.longest_s)


class WaitNormaliser:
    """T, the response time under FCFS at present: the longest recent wait plus the mean run."""

    def __init__(self) -> None:
        self._longest_s = 0.0
        self._mean_s = 0.0
        self._weight = 0.0
        self._arrivals = 0

    @property
    def seconds(self) -> float:
        """T in seconds."""
        return self.seconds_after(self._longest_s)

    def seconds_after(self, longest_s: float) -> float:
        """T if this were the longest recent wait."""
        return max(longest_s + self._mean_s, MIN_RESPONSE_S)

    def arrived(self, serving_s: float) -> "WaitingCredit":
        """Record the serving time of a new request; returns its waiting credit.

        The credit counts as time waited already, because a slow answer is slow by wait and serving
        time together. It is bounded, so that the longest request does not move to the front, and
        so that it has no effect while queues are short.
        """
        self._weight = MEAN_DECAY * self._weight + 1
        self._mean_s += (serving_s - self._mean_s) / self._weight
        self._arrivals += 1
        return self.credit(serving_s)

    def credit(self, serving_s: float) -> "WaitingCredit":
        """The waiting credit of a request of this serving time."""
        return WaitingCredit(self._arrivals, serving_s, self._weight, self._mean_s, self._longest_s)

    def revised(self, credit: "WaitingCredit", serving_s: float) -> None:
        """Change the recorded serving time of a request.

        The mean run is what it would be if this had been recorded at its arrival; the bounds on the
        credits of requests that came in between stay.
        """
        change_s = serving_s - credit.serving_s
        share = MEAN_DECAY ** (self._arrivals - credit.number) / self._weight
        self._mean_s = max(self._mean_s + change_s * share, 0.0)
        credit.mean_s = max(credit.mean_s + change_s / credit.weight, 0.0)
        credit.serving_s = serving_s

    def turn_came(self, waited_s: float) -> None:
        """Record the wait of a request that FCFS would start now."""
        self._longest_s = max(waited_s, LONGEST_WAIT_DECAY * self._longest_s)
