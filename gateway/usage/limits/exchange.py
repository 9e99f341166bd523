"""One exchange with the shared accounts: what was used is reported, parts are taken and given back.

An account is exchanged in one transaction that has its row for itself. What this gateway may use
grows only once that is committed, and shrinks before it.
"""

from collections.abc import Collection, Mapping
from uuid import UUID

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.limits.hold_ledger import AccountName
from gateway.limits.leased_accounts import LeasedBudget, Pot, slice_of
from gateway.usage.limits.shared_accounts import (
    Key,
    Lease,
    Leases,
    SharedAccount,
    end_expired,
    end_leases,
    key_of,
    lock_accounts,
    open_account,
    read_leases,
    write_leases,
    write_levels,
)


class Part(Struct):
    """An account in an exchange: what it gave back before and gets after the commit."""

    name: AccountName
    account: LeasedBudget | Pot
    wanted: int
    ends: bool
    granted: int = 0
    left: float = 0.0
    others: int = 0
    numbers: tuple[float, int] = (0.0, 0)
    changed: tuple[float, ...] = ()

    def restore(self) -> None:
        """The transaction failed: the account is as if it had not been tried."""
        if self.changed:
            self.account.shift([-change for change in self.changed])


class Exchanger:
    """Exchanges the accounts of one gateway, `owner`, and knows what it has leased."""

    def __init__(self, owner: UUID) -> None:
        self._owner = owner
        self._opened: dict[AccountName, Key] = {}
        self._leases: dict[AccountName, Lease] = {}

    async def exchange(
        self,
        session: AsyncSession,
        parts: Collection[Part],
        now_s: float,
    ) -> dict[Key, Part]:
        """Write what the accounts become; `apply` or `restore` them once that is decided."""
        by_key = {key_of(each.account.limit, each.name[1], now_s): each for each in parts}
        for key, part in sorted(by_key.items(), key=lambda each: each[0]):
            if self._opened.get(part.name) != key:
                await open_account(session, key, part.account.limit, part.name[1], now_s)
        shared = await lock_accounts(session, by_key)
        expired = await end_expired(session, shared)
        leases = await read_leases(session, shared)
        found = {key: part for key, part in by_key.items() if key in shared}
        for key in by_key.keys() - shared.keys():  # its limit is gone, or another period has begun
            self._opened.pop(by_key[key].name, None)
        budgets: dict[Key, Lease] = {}
        ended: dict[Key, int] = {}
        levels = {}
        for key, part in found.items():
            state = shared[key]
            if isinstance(part.account, Pot):
                levels[key] = (self._pour(part, part.account, state, now_s), state.now)
                continue
            used = state.used + expired.get(key, 0)
            lease = self._lease(key, part, part.account, state.amount - used, leases, now_s)
            if part.ends:
                ended[key] = lease.used
            else:
                budgets[key] = lease
        await write_levels(session, levels)
        await write_leases(session, self._owner, budgets)
        await end_leases(session, self._owner, ended)
        return found

    def forget(self, name: AccountName) -> None:
        """The account was closed: nothing is leased for it."""
        self._opened.pop(name, None)
        self._leases.pop(name, None)

    def apply(self, found: Mapping[Key, Part], now_s: float) -> None:
        """The transaction is committed: the accounts get what was taken for them."""
        for key, part in found.items():
            self._opened[part.name] = key
            account = part.account
            if key_of(account.limit, part.name[1], now_s) != key:  # another period has begun
                self._leases.pop(part.name, None)
            elif isinstance(account, Pot):
                account.grant(part.granted, part.left, now_s)
            else:
                account.grant(part.granted, now_s, others=part.others)
                self._leases[part.name] = Lease(account.granted, int(part.numbers[0]))
            if part.ends:
                self._leases.pop(part.name, None)
                del self._opened[part.name]

    def _pour(self, part: Part, account: Pot, state: SharedAccount, now_s: float) -> float:
        """Give back to and take from a bucket; returns the level it has then."""
        before, given_back = account.state, 0
        part.ends = part.ends and not account.numbers[1]  # a request may have come meanwhile
        if part.ends or account.room(now_s) < 0 or not part.wanted:
            given_back = account.give_back(now_s, everything=part.ends)
        part.changed = _difference(account.state, before)
        _take(part, min(state.level + given_back, float(state.amount)))
        level, held = account.numbers
        part.numbers = level + part.granted, held
        return part.left

    def _lease(
        self,
        key: Key,
        part: Part,
        account: LeasedBudget,
        unsettled: int,
        leases: Leases,
        now_s: float,
    ) -> Lease:
        """Give back to and take from a budget of which this is not settled; the lease then."""
        account.room(now_s)  # a new period begins now, and not between the two states
        before, reported = account.state, self._leases.get(part.name)
        part.ends = part.ends and not account.held  # a request may have come meanwhile
        if self._owner not in leases[key] and reported and self._opened[part.name] == key:
            account.begin_again(reported.used)  # it had expired, and ended with this use
        others = [lease for owner, lease in leases[key].items() if owner != self._owner]
        part.others = sum(lease.granted - lease.used for lease in others)
        leased_to_others = sum(lease.granted for lease in others)
        account.elsewhere = unsettled - leased_to_others - account.granted
        if part.ends or account.room(now_s) < 0 or not part.wanted:
            account.give_back(now_s, everything=part.ends)
        used = account.close() if part.ends else account.used
        settled = used if part.ends else 0
        _take(part, unsettled - leased_to_others - account.granted - settled)
        account.elsewhere = int(part.left)  # growing answers cannot borrow what is taken
        part.changed = _difference(account.state, before)
        part.numbers = account.numbers
        return Lease(account.granted + part.granted, used)


def _difference(now: tuple[float, ...], before: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(after - earlier for after, earlier in zip(now, before, strict=True))


def _take(part: Part, left: float) -> None:
    """Take what is wanted and a slice, as far as there is any."""
    if part.wanted and not part.ends:
        with_slice = part.wanted + slice_of(left - part.wanted)
        part.granted = max(min(with_slice, int(left // 1)), 0)
    part.left = left - part.granted
