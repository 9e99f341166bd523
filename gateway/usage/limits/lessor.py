"""Leases parts of shared limits for this gateway, in groups and off the path of requests."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from math import inf
from typing import Final
from uuid import UUID

import structlog

from gateway.database.errors import LOST_MESSAGE, Sessions, transaction
from gateway.errors import DatabaseLost, LmaasError
from gateway.event_wait import wait_for_event
from gateway.limits.hold_ledger import AccountName, HoldLedger
from gateway.usage.limits.exchange import Exchanger, Part
from gateway.usage.limits.shared_accounts import delete_old_accounts
from models.base import new_id

SYNC_S: Final = 1.0  # between reports of what was used
RENEW_S: Final = 5.0  # a third of a lease
IDLE_S: Final = 10.0  # without a change, and nothing held: the lease ends
DENIED_S: Final = 0.5  # after a limit had too little, until it is asked again
EXCHANGE_S: Final = 5.0
CLEAN_S: Final = 3_600.0  # between two deletions of old accounts
CLEANED: Final = 2_000  # accounts at once
UNTOUCHED: Final = (0.0, 0)

log = structlog.get_logger()


class Lessor:
    """Leases for the accounts of a ledger.

    Every `SYNC_S` it reports what was used since, and gives back what is not needed soon. A request
    that needs more than is leased waits for one exchange, together with all others that do.
    """

    def __init__(
        self,
        sessions: Sessions,
        ledger: HoldLedger,
        *,
        owner: UUID | None = None,
        clock: Callable[[], float] = time.time,
        sync_s: float = SYNC_S,
    ) -> None:
        """`clock` is in seconds of the epoch; `owner` identifies this run of the gateway."""
        self._sessions = sessions
        self._ledger = ledger
        self.owner = owner or new_id()
        self._exchanger = Exchanger(self.owner)
        self._clock = clock
        self._sync_s = sync_s
        self._wanted: dict[AccountName, int] = {}
        self._answer: asyncio.Future[LmaasError | None] | None = None
        self._denied_until_s: dict[AccountName, float] = {}
        self._seen: dict[AccountName, tuple[float, int]] = {}  # as reported last
        self._reported_s: dict[AccountName, float] = {}
        self._changed_s: dict[AccountName, float] = {}
        self._away_until_s = float("-inf")
        self._clean_at_s = clock() + CLEAN_S
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to exchange in the background."""
        self._task = asyncio.create_task(self._run(), name="limit leases")

    async def close(self) -> None:
        """Stop, and end all leases; if the database is away they expire."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._away_until_s = inf
        if self._answer is not None:
            self._answer.set_result(DatabaseLost("the gateway is stopping"))
        try:
            parts = [Part(name, account, 0, True) for name, account in self._ledger.leased()]
            await self._exchanged(parts, self._clock())
        except LmaasError as error:
            log.warning("limit_leases_expire", reason=error.message)

    async def extend(self, wanted: Mapping[AccountName, int]) -> bool:
        """Lease these amounts more; False if the limits had too little a moment ago.

        What other requests want meanwhile is leased together. DatabaseLost.
        """
        if self._clock() < self._away_until_s:
            raise DatabaseLost(LOST_MESSAGE)
        if not self.want(wanted):
            return False
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
        error = await asyncio.shield(self._answer)
        if isinstance(error, DatabaseLost):
            raise error
        return error is None

    def want(self, wanted: Mapping[AccountName, int]) -> bool:
        """Lease these amounts more soon; False if the limits had too little a moment ago."""
        now_s = self._clock()
        asked = [name for name in wanted if self._denied_until_s.get(name, now_s) <= now_s]
        for name in asked:
            self._wanted[name] = self._wanted.get(name, 0) + wanted[name]
        if asked:
            self._woken.set()
        return bool(asked)

    async def sync(self) -> None:
        """One exchange: lease what is wanted, report what was used. Errors go to who waits."""
        wanted, self._wanted = self._wanted, {}
        answer, self._answer = self._answer, None
        error: LmaasError | None = None
        try:
            await self._once(wanted)
        except LmaasError as failed:
            error = failed
            self._away_until_s = self._clock() + self._sync_s
            log.warning("limits_not_leased", reason=failed.message)
        except BaseException:
            if answer is not None:
                answer.set_result(DatabaseLost(LOST_MESSAGE))
            raise
        if answer is not None:
            answer.set_result(error)

    async def clean(self) -> None:
        """Delete old accounts, if that is due. DatabaseLost."""
        now_s = self._clock()
        if now_s < self._clean_at_s:
            return
        self._clean_at_s = now_s + CLEAN_S
        async with transaction(self._sessions, within_s=EXCHANGE_S) as session:
            deleted = await delete_old_accounts(session, now_s, CLEANED)
        if deleted == CLEANED:
            self._clean_at_s = now_s  # there are more

    async def _once(self, wanted: Mapping[AccountName, int]) -> None:
        parts = list(self._due(wanted))
        if not parts:
            return
        now_s = self._clock()
        found = await self._exchanged(parts, now_s)
        self._denied_until_s = {n: end for n, end in self._denied_until_s.items() if end > now_s}
        for part in parts:
            self._seen[part.name] = part.numbers
            self._reported_s[part.name] = now_s
            if part.granted < part.wanted:
                self._denied_until_s[part.name] = now_s + DENIED_S
            if part.name not in found:
                self._forget(part.name)

    async def _exchanged(self, parts: Collection[Part], now_s: float) -> set[AccountName]:
        """Exchange these accounts; returns those whose limits still exist."""
        try:
            async with transaction(self._sessions, within_s=EXCHANGE_S) as session:
                found = await self._exchanger.exchange(session, parts, now_s)
        except BaseException:
            for part in parts:
                part.restore()
            raise
        self._exchanger.apply(found, self._clock())
        return {part.name for part in found.values()}

    def _due(self, wanted: Mapping[AccountName, int]) -> Iterator[Part]:
        """The accounts to exchange: more is wanted, they have changed, or their lease is old.

        Those that have nothing leased and were not asked for a while are closed.
        """
        now_s, accounts = self._clock(), dict(self._ledger.leased())
        for name in self._changed_s.keys() - accounts.keys():  # of limits that were removed
            self._forget(name)
        for name, account in accounts.items():
            changed = account.numbers != self._seen.get(name, UNTOUCHED)
            if changed or name in wanted:
                self._changed_s[name] = now_s
            idle = now_s - self._changed_s.setdefault(name, now_s) >= IDLE_S
            ends = idle and not account.numbers[1]
            if ends and account.is_empty:
                self._ledger.close(name)
                self._forget(name)
                continue
            renews = now_s - self._reported_s.get(name, now_s) >= RENEW_S
            if changed or renews or ends or name in wanted:
                yield Part(name, account, wanted.get(name, 0), ends)

    def _forget(self, name: AccountName) -> None:
        for known in (self._seen, self._reported_s, self._changed_s):
            known.pop(name, None)
        self._exchanger.forget(name)

    async def _run(self) -> None:
        while True:
            await wait_for_event(self._woken, self._sync_s)
            self._woken.clear()
            try:
                await self.sync()
                await self.clean()
            except DatabaseLost as error:
                log.warning("limit_accounts_kept", reason=error.message)
            except Exception:
                log.exception("limit_leases_failed")
