"""The account of a limit: how much is used and held, and when more could be."""

from collections.abc import Hashable
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Final, Protocol

from msgspec import Struct

from gateway.limits.limit import Limit

MINUTE_S: Final = 60.0
MIN_WAIT_S: Final = 1.0  # for holds whose expected end has passed


class Booking(Struct):
    """A hold in one account: the amount held, the use expected, and the expected end in seconds."""

    amount: int
    expected: int
    ends_s: float


class Account(Protocol):
    """What one limit has granted. Times are in seconds of one clock, which is that of UTC."""

    limit: Limit

    def room(self, now_s: float) -> int:
        """How much more may be held now; negative beyond the limit."""

    def left(self, now_s: float) -> int:
        """How much the limit leaves, if more can be had than may be held at once."""

    def wait_s(self, amount: int, now_s: float) -> float:
        """The expected seconds until `amount` may be held: 0 now, infinite never."""

    def hold(self, name: Hashable, booking: Booking, now_s: float) -> None:
        """Hold an amount under a name, even beyond the limit."""

    def grow(self, name: Hashable, by: int, now_s: float) -> None:
        """Hold more under this name, even beyond the limit."""

    def settle(self, name: Hashable, used: int, now_s: float) -> None:
        """Replace a hold by what was used."""

    def is_idle(self, now_s: float) -> bool:
        """Whether nothing is held and nothing is remembered."""


class _Holds:
    """The open holds of an account."""

    def __init__(self) -> None:
        self._bookings: dict[Hashable, Booking] = {}
        self.total = 0

    def __len__(self) -> int:
        return len(self._bookings)

    def add(self, name: Hashable, booking: Booking) -> None:
        assert name not in self._bookings
        self._bookings[name] = booking
        self.total += booking.amount

    def grow(self, name: Hashable, by: int) -> bool:
        """Add to a hold; returns whether there is one of this name."""
        booking = self._bookings.get(name)
        if booking is not None:
            booking.amount += by
            booking.expected = max(booking.expected, booking.amount)
            self.total += by
        return booking is not None

    def remove(self, name: Hashable) -> Booking | None:
        booking = self._bookings.pop(name, None)
        self.total -= booking.amount if booking is not None else 0
        return booking

    def clear(self) -> None:
        self._bookings.clear()
        self.total = 0

    def frees_at_s(self, missing: int, *, keeps_use: bool) -> float:
        """When the ends of holds are expected to have freed `missing`; infinite if they never do.

        With `keeps_use`, an end frees only what was held beyond the expected use.
        """
        for booking in sorted(self._bookings.values(), key=lambda each: each.ends_s):
            missing -= booking.amount - (booking.expected if keeps_use else 0)
            if missing <= 0:
                return booking.ends_s
        return inf


class AtOnce:
    """At most so much in use at any moment: requests or KV tokens."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self._holds = _Holds()

    def is_idle(self, now_s: float) -> bool:  # noqa: ARG002
        """Whether nothing is held."""
        return not self._holds

    def room(self, now_s: float) -> int:  # noqa: ARG002
        """How much more may be held now."""
        return self.limit.amount - self._holds.total

    def left(self, now_s: float) -> int:
        """How much more may be held now."""
        return self.room(now_s)

    def wait_s(self, amount: int, now_s: float) -> float:
        """The expected seconds until earlier requests have ended that hold enough."""
        missing = amount - self.room(now_s)
        if missing <= 0:
            return 0.0
        if amount > self.limit.amount:
            return inf
        return max(self._holds.frees_at_s(missing, keeps_use=False) - now_s, MIN_WAIT_S)

    def hold(self, name: Hashable, booking: Booking, now_s: float) -> None:  # noqa: ARG002
        """Hold an amount under a name."""
        self._holds.add(name, booking)

    def grow(self, name: Hashable, by: int, now_s: float) -> None:  # noqa: ARG002
        """Hold more under this name."""
        self._holds.grow(name, by)

    def settle(self, name: Hashable, used: int, now_s: float) -> None:  # noqa: ARG002
        """Release the hold: what has ended is no longer in use."""
        self._holds.remove(name)


class Rate:
    """A token bucket: filled by the limit's amount each minute, and never fuller than it.

    A hold takes its amount out; its settlement returns what was not used, or takes the rest.
    """

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self._holds = _Holds()
        self._level = float(limit.amount)
        self._filled_s: float | None = None

    def is_idle(self, now_s: float) -> bool:
        """Whether nothing is held, and the bucket is full."""
        return not self._holds and self._fill(now_s) >= self.limit.amount

    def room(self, now_s: float) -> int:
        """How much is in the bucket."""
        return int(self._fill(now_s) // 1)

    def left(self, now_s: float) -> int:
        """How much is in the bucket."""
        return self.room(now_s)

    def wait_s(self, amount: int, now_s: float) -> float:
        """The seconds until the bucket has this much."""
        if amount > self.limit.amount:
            return inf
        return max(amount - self._fill(now_s), 0.0) * MINUTE_S / self.limit.amount

    def hold(self, name: Hashable, booking: Booking, now_s: float) -> None:
        """Take an amount out under a name."""
        self._holds.add(name, booking)
        self._level = self._fill(now_s) - booking.amount

    def grow(self, name: Hashable, by: int, now_s: float) -> None:
        """Take more out under this name."""
        if self._holds.grow(name, by):
            self._level = self._fill(now_s) - by

    def settle(self, name: Hashable, used: int, now_s: float) -> None:
        """Return what was not used."""
        booking = self._holds.remove(name)
        if booking is not None:
            refilled = self._fill(now_s) + booking.amount - used
            self._level = min(refilled, float(self.limit.amount))

    def _fill(self, now_s: float) -> float:
        elapsed_s = max(now_s - self._filled_s, 0.0) if self._filled_s is not None else 0.0
        filled = self._level + elapsed_s * self.limit.amount / MINUTE_S
        self._level = min(filled, float(self.limit.amount))
        self._filled_s = max(now_s, self._filled_s or now_s)
        return self._level


class Budget:
    """So much in a calendar period of UTC.

    A request counts in the period in which it was admitted, so its hold and its use are in one.
    """

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.used = 0
        self._holds = _Holds()
        self._ends_s = -inf

    @property
    def held(self) -> int:
        """What open holds of this period hold."""
        return self._holds.total

    def is_idle(self, now_s: float) -> bool:
        """Whether nothing is held and nothing was used in this period."""
        self._turn(now_s)
        return not self._holds and not self.used

    def room(self, now_s: float) -> int:
        """What is left of the period's amount."""
        self._turn(now_s)
        return self.limit.amount - self.used - self._holds.total

    def left(self, now_s: float) -> int:
        """What is left of the period's amount."""
        return self.room(now_s)

    def wait_s(self, amount: int, now_s: float) -> float:
        """The expected seconds until holds end that hold more than is used, or until the period."""
        missing = amount - self.room(now_s)
        if missing <= 0:
            return 0.0
        if amount > self.limit.amount:
            return inf
        freed_s = self._holds.frees_at_s(missing, keeps_use=True)
        return min(max(freed_s - now_s, MIN_WAIT_S), self._ends_s - now_s)

    def hold(self, name: Hashable, booking: Booking, now_s: float) -> None:
        """Hold an amount under a name."""
        self._turn(now_s)
        self._holds.add(name, booking)

    def grow(self, name: Hashable, by: int, now_s: float) -> None:
        """Hold more under this name."""
        self._turn(now_s)
        self._holds.grow(name, by)

    def settle(self, name: Hashable, used: int, now_s: float) -> None:
        """Replace a hold by what was used; one of an earlier period no longer counts."""
        self._turn(now_s)
        if self._holds.remove(name) is not None:
            self.used += used

    def _turn(self, now_s: float) -> None:
        """Begin the period of `now_s`, if it is a new one."""
        if now_s >= self._ends_s:
            self.used = 0
            self._holds.clear()
            self._ends_s = period_end_s(self.limit, now_s)
            self._new_period()

    def _new_period(self) -> None:
        """What a subclass does when a period begins."""


def open_account(limit: Limit) -> Account:
    """An empty account of a limit."""
    match limit.period:
        case "at_once":
            return AtOnce(limit)
        case "minute":
            return Rate(limit)
        case "day" | "month":
            return Budget(limit)


def period_end_s(limit: Limit, now_s: float) -> float:
    """The end of the day or month of UTC in which `now_s` lies, in seconds of the epoch."""
    now = datetime.fromtimestamp(now_s, UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if limit.period == "day":
        return (midnight + timedelta(days=1)).timestamp()
    return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp()
