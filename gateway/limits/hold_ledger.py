"""Holds: what requests may still use of their limits, from admission until they have ended.

A hold is taken in all accounts of a request at once, or in none. It is the predicted use; as an
answer outgrows it, it grows, and its settlement replaces it by the true use.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from math import inf
from typing import TypeAlias
from uuid import UUID

from msgspec import Struct

from gateway.limits.accounts import Account, Booking, open_account, period_end_s
from gateway.limits.leased_accounts import LeasedBudget, Pot
from gateway.limits.limit import Amounts, Level, Limit, Quantity, Standing, Subjects

AccountName: TypeAlias = tuple[UUID, str | None]
"""An account: its limit's id, and the user for a limit of level `user`."""


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
        return any(limit.effect == "soft" for limit in self.beyond)


class Refused(Struct, frozen=True):
    """The request is beyond a hard limit for `wait_s` expected seconds; infinite: for ever.

    `asked` is what it would hold, `left` what the limit leaves now.
    """

    limit: Limit
    wait_s: float
    asked: int = 0
    left: int = 0


class HoldLedger:
    """The accounts of all limits and the open holds in them."""

    def __init__(
        self,
        limits: Iterable[Limit] = (),
        open_account: Callable[[Limit], Account] = open_account,
    ) -> None:
        self._open_account = open_account
        self._limits: dict[tuple[Level, UUID | None], list[Limit]] = {}
        self._accounts: dict[AccountName, Account] = {}
        self._open: dict[Hashable, dict[AccountName, Account]] = {}
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
        accounts = {name: self._account(name) for name in self._names_of(ask.subjects)}
        waits = [
            (account.wait_s(ask.amounts.get(account.limit.quantity, 0), now_s), account)
            for account in accounts.values()
        ]
        beyond = [(wait_s, account) for wait_s, account in waits if wait_s > 0]
        hard = [each for each in beyond if each[1].limit.effect == "hard"]
        if hard:
            wait_s, account = max(hard, key=lambda each: each[0])
            asked = ask.amounts.get(account.limit.quantity, 0)
            return Refused(account.limit, wait_s, asked, max(account.left(now_s), 0))
        for account in accounts.values():
            quantity = account.limit.quantity
            amount, expected = ask.amounts.get(quantity, 0), ask.expected.get(quantity, 0)
            account.hold(ask.name, Booking(amount, expected, ask.ends_s), now_s)
        if accounts:
            self._open[ask.name] = accounts
        return Granted(tuple(account.limit for _, account in beyond))

    def grow(self, name: Hashable, unit: Amounts, units: int, now_s: float) -> int:
        """Hold up to `units` times `unit` more; returns the units that hard budgets allow.

        Limits of a moment or a minute are for admission: a running request may go beyond them.
        Negative units make the hold smaller.
        """
        accounts = [
            account
            for account in self._open.get(name, {}).values()
            if unit.get(account.limit.quantity, 0)
        ]
        granted = units
        for account in accounts:
            if account.limit.effect == "hard" and account.limit.is_budget:
                room = max(account.left(now_s), 0)
                granted = min(granted, room // unit[account.limit.quantity])
        for account in accounts:
            account.grow(name, granted * unit[account.limit.quantity], now_s)
        return granted

    def overrun(self, name: Hashable, unit: Amounts, units: int, now_s: float) -> None:
        """Hold `units` times `unit` more, even beyond budgets."""
        for account in self._open.get(name, {}).values():
            account.grow(name, units * unit.get(account.limit.quantity, 0), now_s)

    def spent(self, name: Hashable, unit: Amounts, now_s: float) -> Limit | None:
        """The hard budget on `unit` of a request's hold that leaves least; None without one."""
        budgets = [
            account
            for account in self._open.get(name, {}).values()
            if account.limit.effect == "hard"
            and account.limit.is_budget
            and unit.get(account.limit.quantity, 0)
        ]
        if not budgets:
            return None
        units_left = [each.room(now_s) / unit[each.limit.quantity] for each in budgets]
        return budgets[units_left.index(min(units_left))].limit

    def settle(self, name: Hashable, used: Amounts, now_s: float) -> None:
        """Replace a request's hold by what it used. It does nothing for one that has no hold."""
        for account in self._open.pop(name, {}).values():
            account.settle(name, used.get(account.limit.quantity, 0), now_s)

    def charge(self, subjects: Subjects, used: Amounts, began_s: float, now_s: float) -> None:
        """Add to budgets what a request used that began then and has no hold, even beyond them.

        It does not count in a later period.
        """
        for account in self._accounts_of(subjects):
            limit = account.limit
            if limit.is_budget and now_s < period_end_s(limit, began_s):
                name = object()
                account.hold(name, Booking(0, 0, now_s), now_s)
                account.settle(name, used.get(limit.quantity, 0), now_s)

    def room(self, subjects: Subjects, quantity: Quantity, now_s: float) -> float:
        """How much of a quantity hard limits let these subjects hold now; infinite without one."""
        rooms = (max(account.room(now_s), 0) for account in self._hard(subjects, quantity))
        return min(rooms, default=inf)

    def standing(self, subjects: Subjects, quantity: Quantity, now_s: float) -> Standing | None:
        """How the hard limit on a quantity stands that leaves least; None if there is none.

        What is in use at a moment has no time at which it is free again, so it is left out; so are
        limits of the node, by which one tenant could see what others use.
        """
        accounts = [
            account
            for account in self._hard(subjects, quantity)
            if account.limit.period != "at_once" and account.limit.level != "node"
        ]
        if not accounts:
            return None
        least = min(accounts, key=lambda account: account.left(now_s))
        amount = least.limit.amount
        left = min(max(least.left(now_s), 0), amount)
        return Standing(amount, left, 0.0 if left == amount else least.wait_s(amount, now_s))

    def short_of(self, ask: Ask, now_s: float) -> dict[AccountName, int]:
        """By leased account, how much more must be leased before this can be held."""
        short = {}
        for name in self._names_of(ask.subjects):
            account = self._account(name)
            amount, room = ask.amounts.get(account.limit.quantity, 0), account.room(now_s)
            if isinstance(account, LeasedBudget | Pot) and amount > room:
                short[name] = amount - min(room, 0)  # others may take the room meanwhile
        return short

    def any_hard(self, names: Iterable[AccountName]) -> bool:
        """Whether one of these accounts is of a hard limit."""
        return any(self._account(name).limit.effect == "hard" for name in names)

    def short_to_grow(self, name: Hashable, unit: Amounts, units: int) -> dict[AccountName, int]:
        """By leased budget of a hold, how much `units` times `unit` is."""
        return {
            each: units * unit[account.limit.quantity]
            for each, account in self._open.get(name, {}).items()
            if isinstance(account, LeasedBudget) and unit.get(account.limit.quantity, 0)
        }

    def leased(self) -> Iterator[tuple[AccountName, LeasedBudget | Pot]]:
        """The accounts that are shared with other gateways."""
        for name, account in self._accounts.items():
            if isinstance(account, LeasedBudget | Pot):
                yield name, account

    @property
    def limits(self) -> Iterator[Limit]:
        """All limits."""
        return (limit for limits in self._limits.values() for limit in limits)

    @property
    def accounts(self) -> int:
        """How many accounts are open."""
        return len(self._accounts)

    def holds(self, name: Hashable) -> bool:
        """Whether a request holds something, if only nothing of some account."""
        return name in self._open

    @property
    def open_holds(self) -> int:
        """How many requests hold something."""
        return len(self._open)

    def forget_idle(self, now_s: float) -> None:
        """Close the accounts that hold and remember nothing, as those of users who went away."""
        for name, account in list(self._accounts.items()):
            if account.is_idle(now_s):
                del self._accounts[name]

    def close(self, name: AccountName) -> None:
        """Close an account of which nothing is leased."""
        del self._accounts[name]

    def _hard(self, subjects: Subjects, quantity: Quantity) -> Iterator[Account]:
        for account in self._accounts_of(subjects):
            if account.limit.effect == "hard" and account.limit.quantity == quantity:
                yield account

    def _accounts_of(self, subjects: Subjects) -> Iterator[Account]:
        return map(self._account, self._names_of(subjects))

    def _names_of(self, subjects: Subjects) -> Iterator[AccountName]:
        for bounded in subjects.bounded_by():
            for limit in self._limits.get(bounded, ()):
                name = (limit.id, subjects.user if limit.level == "user" else None)
                if name not in self._accounts:
                    self._accounts[name] = self._open_account(limit)
                yield name

    def _account(self, name: AccountName) -> Account:
        return self._accounts[name]
