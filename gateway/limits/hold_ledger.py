"""Holds: what requests may still use of their limits, from admission until they have ended.

A hold is taken in all accounts of a request at once, or in none. It is the predicted use; as an
answer outgrows it, it grows, and its settlement replaces it by the true use.
"""

from collections.abc import Hashable, Iterable, Iterator
from math import inf
from uuid import UUID

from msgspec import Struct

from gateway.limits.accounts import Account, Booking, open_account
from gateway.limits.limit import Amounts, Level, Limit, Quantity, Subjects


class Ask(Struct, frozen=True, kw_only=True):
    """What a request asks for: amounts to hold, the use expected, and its expected end."""

    name: Hashable
    subjects: Subjects
    amounts: Amounts
    expected: Amounts
    ends_s: float


class Granted(Struct, frozen=True):
    """The request runs; it is beyond these limits, which do not refuse it."""

    beyond: tuple[Limit, ...] = ()

    @property
    def yields(self) -> bool:
        """Whether it waits behind lighter users."""
        return any(limit.mode == "soft" for limit in self.beyond)


class Refused(Struct, frozen=True):
    """The request is beyond a hard limit for `wait_s` expected seconds; infinite: for ever."""

    limit: Limit
    wait_s: float


class HoldLedger:
    """The accounts of all limits and the open holds in them."""

    def __init__(self, limits: Iterable[Limit] = ()) -> None:
        self._limits: dict[tuple[Level, UUID | None], list[Limit]] = {}
        self._accounts: dict[Hashable, Account] = {}
        self._open: dict[Hashable, list[Account]] = {}
        self.use(limits)

    def use(self, limits: Iterable[Limit]) -> None:
        """Adopt a new set of limits. A limit of a known id keeps what was used and is held."""
        self._limits = {}
        found = {}
        for limit in limits:
            self._limits.setdefault((limit.level, limit.subject), []).append(limit)
            found[limit.id] = limit
        for name, account in list(self._accounts.items()):
            kept = found.get(account.limit.id)
            if kept is None or kept.period != account.limit.period:
                del self._accounts[name]
            else:
                account.limit = kept

    def ask(self, ask: Ask, now_s: float) -> Granted | Refused:
        """Hold what a request asks for in all its accounts, or refuse it and hold nothing."""
        accounts = list(self._accounts_of(ask.subjects))
        waits = [
            account.wait_s(ask.amounts.get(account.limit.quantity, 0), now_s)
            for account in accounts
        ]
        beyond = [
            (wait_s, account.limit)
            for account, wait_s in zip(accounts, waits, strict=True)
            if wait_s > 0
        ]
        hard = [(wait_s, limit) for wait_s, limit in beyond if limit.mode == "hard"]
        if hard:
            wait_s, limit = max(hard, key=lambda each: each[0])
            return Refused(limit, wait_s)
        for account in accounts:
            quantity = account.limit.quantity
            amount, expected = ask.amounts.get(quantity, 0), ask.expected.get(quantity, 0)
            account.hold(ask.name, Booking(amount, expected, ask.ends_s), now_s)
        self._open[ask.name] = accounts
        return Granted(tuple(limit for _, limit in beyond))

    def grow(self, name: Hashable, unit: Amounts, units: int, now_s: float) -> int:
        """Hold up to `units` times `unit` more; returns the units that hard limits allow."""
        accounts = [account for account in self._open[name] if unit.get(account.limit.quantity, 0)]
        granted = units
        for account in accounts:
            if account.limit.mode == "hard":
                room = max(account.room(now_s), 0)
                granted = min(granted, room // unit[account.limit.quantity])
        for account in accounts:
            account.grow(name, granted * unit[account.limit.quantity], now_s)
        return granted

    def settle(self, name: Hashable, used: Amounts, now_s: float) -> None:
        """Replace a request's hold by what it used. It does nothing for one that has no hold."""
        for account in self._open.pop(name, ()):
            account.settle(name, used.get(account.limit.quantity, 0), now_s)

    def room(self, subjects: Subjects, quantity: Quantity, now_s: float) -> float:
        """How much of a quantity hard limits let these subjects hold now; infinite without one."""
        rooms = (
            max(account.room(now_s), 0)
            for account in self._accounts_of(subjects)
            if account.limit.mode == "hard" and account.limit.quantity == quantity
        )
        return min(rooms, default=inf)

    @property
    def accounts(self) -> int:
        """How many accounts are open."""
        return len(self._accounts)

    def forget_idle(self) -> None:
        """Close the accounts that hold and remember nothing, as those of users who went away."""
        for name, account in list(self._accounts.items()):
            if account.idle:
                del self._accounts[name]

    def _accounts_of(self, subjects: Subjects) -> Iterator[Account]:
        for bounded in subjects.bounded_by():
            for limit in self._limits.get(bounded, ()):
                name = (limit.id, subjects.user if limit.level == "user" else None)
                if name not in self._accounts:
                    self._accounts[name] = open_account(limit)
                yield self._accounts[name]
