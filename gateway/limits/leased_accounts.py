"""Accounts of limits that several gateways share: each leases a part and accounts for it alone.

What a lease has is exclusive, so what all gateways admit never exceeds the limit. A growing answer
cannot wait for a lease: it borrows from what was left when its gateway last asked. If another
gateway takes that meanwhile, a budget is overrun by as much.
"""

from collections.abc import Hashable, Sequence
from math import ceil
from typing import Final

from gateway.limits.accounts import MIN_WAIT_S, MINUTE_S, Account, AtOnce, Budget, Rate
from gateway.limits.limit import Limit

SLICES: Final = 8  # a lease takes an eighth of what is left beyond what is needed now
RETURN_S: Final = 2.0  # others give back within this what they do not need


class LeasedBudget(Budget):
    """The part of a budget that is granted to this gateway in the present period.

    `granted` includes what was used of it; `elsewhere` is what was left beyond all leases when the
    gateway last asked, `others` what other gateways had leased and not used.
    """

    def __init__(self, limit: Limit) -> None:
        super().__init__(limit)
        self.granted = 0
        self.elsewhere = 0
        self.others = 0

    @property
    def numbers(self) -> tuple[float, int]:
        """What it has used and holds, to see whether it has changed."""
        return self.used, self.held

    @property
    def is_empty(self) -> bool:
        """Whether nothing is leased, and nothing was used of it."""
        return not self.granted and not self.used

    @property
    def state(self) -> tuple[int, ...]:
        """What an exchange changes."""
        return self.used, self.granted, self.elsewhere

    def shift(self, changes: Sequence[float]) -> None:
        """Add to what `state` has."""
        used, granted, elsewhere = map(int, changes)
        self.used += used
        self.granted += granted
        self.elsewhere += elsewhere

    @property
    def outstanding(self) -> int:
        """What is used and held."""
        return self.used + self.held

    def room(self, now_s: float) -> int:
        """How much more may be held of what is granted, and of the limit, if that was lowered."""
        self._turn(now_s)
        return min(self.granted, self.limit.amount) - self.outstanding

    def left(self, now_s: float) -> int:
        """What is left of the limit, beyond what others have leased."""
        return self.room(now_s) + self.elsewhere

    def is_idle(self, now_s: float) -> bool:  # noqa: ARG002
        """Never: what leases for it closes it."""
        return False

    def grow(self, name: Hashable, by: int, now_s: float) -> None:
        """Hold more under this name; what the lease lacks is borrowed from what was left."""
        super().grow(name, by, now_s)
        borrowed = max(min(self.outstanding - self.granted, self.elsewhere), 0)
        self.granted += borrowed
        self.elsewhere -= borrowed

    def wait_s(self, amount: int, now_s: float) -> float:
        """The expected seconds until holds end here, others give back, or the period ends."""
        wait_s = super().wait_s(amount, now_s)
        if amount <= self.limit.amount and amount <= self.left(now_s) + self.others:
            return min(wait_s, RETURN_S)
        return wait_s

    def grant(self, amount: int, now_s: float, *, others: int = 0) -> None:
        """Add to the lease what was taken off `elsewhere`; `others` is left of other leases."""
        self._turn(now_s)
        self.granted += amount
        self.others = others

    def give_back(self, now_s: float, *, everything: bool = False) -> int:
        """Take what is not needed soon out of the lease; a use beyond it joins it.

        Returns the amount, which is negative for such a use.
        """
        self._turn(now_s)
        unused = self.granted - self.outstanding
        keep = 0 if everything or unused < 0 else max(unused + self.elsewhere, 0) // SLICES
        if not everything and 0 <= unused <= 2 * keep:
            return 0
        self.granted -= unused - keep
        self.elsewhere += unused - keep
        return unused - keep

    def begin_again(self, settled: int) -> None:
        """Lease again what is outstanding, of which this use counts as settled already."""
        self.used = max(self.used - settled, 0)
        self.granted = self.outstanding

    def close(self) -> int:
        """End the lease; returns what was used of it."""
        used, self.used, self.granted = self.used, 0, 0
        return used

    def _new_period(self) -> None:
        self.granted = self.elsewhere = self.others = 0


class Pot(Rate):
    """What this gateway took out of a bucket that all gateways share.

    The shared bucket had `shared` when the gateway last asked; time refills that one alone.
    """

    def __init__(self, limit: Limit) -> None:
        super().__init__(limit)
        self._level = 0.0
        self._shared, self._asked_s = float(limit.amount), 0.0

    def wait_s(self, amount: int, now_s: float) -> float:
        """The expected seconds until this much can be taken out of pot and bucket."""
        if amount > self.limit.amount:
            return float("inf")
        if amount <= self._level:
            return 0.0
        missing = amount - self._level - self.shared(now_s)
        return max(missing * MINUTE_S / self.limit.amount, MIN_WAIT_S if missing <= 0 else 0.0)

    def shared(self, now_s: float) -> float:
        """What the shared bucket has, if no other gateway took from it since."""
        refilled = max(now_s - self._asked_s, 0.0) * self.limit.amount / MINUTE_S
        return min(self._shared + refilled, float(self.limit.amount))

    def left(self, now_s: float) -> int:
        """What pot and bucket have."""
        return min(int((self._level + self.shared(now_s)) // 1), self.limit.amount)

    def is_idle(self, now_s: float) -> bool:  # noqa: ARG002
        """Never: what leases for it closes it."""
        return False

    def grant(self, amount: int, shared: float, now_s: float) -> None:
        """Put into the pot what was taken out of the bucket."""
        self._level += amount
        self._shared, self._asked_s = shared, now_s

    def give_back(self, now_s: float, *, everything: bool = False) -> int:
        """Take out of the pot what is not needed soon, or, as a negative amount, fill a debt."""
        keep = 0 if everything else max(self.left(now_s), 0) // SLICES
        if not everything and 0 <= self._level <= 2 * keep:
            return 0
        surplus = int((self._level - keep) // 1)
        self._level = 0.0 if everything else self._level - surplus
        return surplus

    @property
    def is_empty(self) -> bool:
        """Whether it has nothing, and owes nothing."""
        return not self._level

    @property
    def state(self) -> tuple[float, ...]:
        """What an exchange changes."""
        return (self._level,)

    def shift(self, changes: Sequence[float]) -> None:
        """Add to what `state` has."""
        (level,) = changes
        self._level += level

    @property
    def numbers(self) -> tuple[float, int]:
        """What it has and holds, to see whether it has changed."""
        return self._level, self._holds.total

    def _fill(self, now_s: float) -> float:  # noqa: ARG002
        """The pot's level: time does not fill it."""
        return self._level


def open_leased(limit: Limit) -> Account:
    """An account of a limit of which nothing is leased yet."""
    match limit.period:
        case "at_once":  # each gateway has its own engine and its own requests
            return AtOnce(limit)
        case "minute":
            return Pot(limit)
        case "day" | "month":
            return LeasedBudget(limit)


def slice_of(left: float) -> int:
    """What a lease takes of what is left, beyond what is needed now."""
    return ceil(left) // SLICES if left > 0 else 0
