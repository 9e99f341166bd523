"""Finds callers by their secrets' digests, batching concurrent look-ups into few queries."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, get_args
from uuid import UUID

from msgspec import Struct
from sqlalchemy import func, or_, select, text

from engine.protocol import KvPlacement
from gateway.database.errors import Sessions, transaction
from gateway.errors import OverLimit
from gateway.tenancy.caller import Caller, weight_of
from models import ApiKey, App, Tenant

MAX_DIGESTS_PER_QUERY: Final = 256
MAX_QUERIES: Final = 4  # at a time: few, so that guessed keys leave the pool to others
MAX_WAITING_DIGESTS: Final = 2048  # while the queries run
QUERY_S: Final = 5.0

_REVOKED: Final = text("""
    SELECT api_keys.id FROM api_keys
    JOIN apps ON apps.id = api_keys.app_id JOIN tenants ON tenants.id = apps.tenant_id
    WHERE api_keys.id = ANY(:keys)
      AND (revoked_at IS NOT NULL OR apps.deleted_at IS NOT NULL OR tenants.deleted_at IS NOT NULL)
""")

OnFound: TypeAlias = Callable[[bytes, Caller | None], None]


class _LookUp(Struct, eq=False):
    """One digest's look-up, and how many wait for its answer."""

    answer: asyncio.Future[Caller | Exception | None]
    waiters: int = 0


class CallerLookup:
    """Looks callers up in the database; a query serves all that wait when it starts.

    So a client that guesses keys causes few queries at a time, whatever its rate, and a query that
    hangs holds up only the keys in it. A look-up that has begun goes on when no request waits for
    it any more: `on_found` gets every answer, None for an invalid key.
    """

    def __init__(self, sessions: Sessions, on_found: OnFound) -> None:
        self._sessions = sessions
        self._on_found = on_found
        self._waiting: OrderedDict[bytes, _LookUp] = OrderedDict()
        self._running: dict[bytes, _LookUp] = {}
        self._readers: set[asyncio.Task[None]] = set()
        self._changes = 0

    async def find(self, digest: bytes, *, first: bool = False) -> Caller | None:
        """The caller whose key is valid and has this digest. DatabaseLost, OverLimit.

        `first`: before the others that wait, and whatever their number.
        """
        look_up = self._running.get(digest) or self._waiting.get(digest)
        if look_up is None:
            look_up = self._enqueue(digest, first=first)
        look_up.waiters += 1
        try:
            # A waiter that is cancelled must not cancel the answer for the others.
            found = await asyncio.shield(look_up.answer)
        finally:
            look_up.waiters -= 1
            if not look_up.waiters and self._waiting.get(digest) is look_up:
                del self._waiting[digest]
        if isinstance(found, Exception):
            raise found
        return found

    def changed(self) -> None:
        """Tenants, apps or keys have changed: a query that was sent before is repeated."""
        self._changes += 1

    async def find_revoked(self, key_ids: Sequence[UUID]) -> list[UUID]:
        """Of these keys, those that were revoked or whose app or tenant was deleted. DatabaseLost.

        One query, whatever their number.
        """
        if not key_ids:
            return []
        async with transaction(self._sessions, within_s=QUERY_S) as session:
            return [*await session.scalars(_REVOKED, {"keys": list(key_ids)})]

    def check(self) -> None:
        """Assert that the number of queries is bounded, and that each digest is asked once."""
        assert len(self._readers) <= MAX_QUERIES
        assert len(self._running) <= MAX_QUERIES * MAX_DIGESTS_PER_QUERY
        assert not self._waiting.keys() & self._running.keys()
        assert all(look_up.waiters for look_up in self._waiting.values())

    def _enqueue(self, digest: bytes, *, first: bool) -> _LookUp:
        if not first and len(self._waiting) >= MAX_WAITING_DIGESTS:
            raise OverLimit("too many unknown API keys at once")
        look_up = self._waiting[digest] = _LookUp(asyncio.get_running_loop().create_future())
        if first:
            self._waiting.move_to_end(digest, last=False)
        if len(self._readers) < MAX_QUERIES:
            self._readers.add(asyncio.create_task(self._read(), name="API key look-up"))
        return look_up

    async def _read(self) -> None:
        """Look up batches until no digest waits."""
        try:
            while self._waiting:
                size = min(len(self._waiting), MAX_DIGESTS_PER_QUERY)
                batch = dict(self._waiting.popitem(last=False) for _ in range(size))
                self._running |= batch
                await self._resolve(batch)
        finally:
            task = asyncio.current_task()
            assert task is not None, "a reader is a task"
            self._readers.discard(task)

    async def _resolve(self, batch: Mapping[bytes, _LookUp]) -> None:
        try:
            found = await self._select_unchanged(list(batch))
        except Exception as error:  # noqa: BLE001  each waiter raises it
            for look_up in batch.values():
                look_up.answer.set_result(error)
        except BaseException:
            for look_up in batch.values():
                look_up.answer.cancel()
            raise
        else:
            for digest, look_up in batch.items():
                self._on_found(digest, found.get(digest))
                look_up.answer.set_result(found.get(digest))
        finally:
            for digest in batch:
                del self._running[digest]

    async def _select_unchanged(self, digests: list[bytes]) -> dict[bytes, Caller]:
        """Their callers as they are after every change known of."""
        while True:
            changes = self._changes
            found = await self._select_callers(digests)
            if changes == self._changes:
                return found

    async def _select_callers(self, digests: list[bytes]) -> dict[bytes, Caller]:
        statement = (
            select(
                ApiKey.digest,
                ApiKey.id,
                App.id,
                App.name,
                App.instruction,
                Tenant.id,
                Tenant.name,
                Tenant.share,
                App.share,
                App.memory,
                ApiKey.expires_at,
                ApiKey.service_tiers,
                ApiKey.min_deadline_s,
            )
            .join(App, App.id == ApiKey.app_id)
            .join(Tenant, Tenant.id == App.tenant_id)
            .where(
                ApiKey.digest.in_(digests),
                ApiKey.revoked_at.is_(None),
                App.deleted_at.is_(None),
                Tenant.deleted_at.is_(None),
                or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()),
            )
        )
        async with transaction(self._sessions, within_s=QUERY_S) as session:
            rows = (await session.execute(statement)).all()
        return {row[0]: _caller(tuple(row)) for row in rows}


def _caller(row: tuple[Any, ...]) -> Caller:
    _, key_id, app_id, app, instruction, tenant_id, tenant, share, *rules = row
    app_share, memory, expires, tiers, deadline = rules
    return Caller(
        tenant_id=tenant_id,
        tenant=tenant,
        app_id=app_id,
        app=app,
        api_key_id=key_id,
        instruction=instruction,
        share=weight_of(share),
        app_share=weight_of(app_share),
        memory=memory if memory in get_args(KvPlacement) else "device",
        expires_at=expires,
        service_tiers=tuple(tiers) if tiers is not None else None,
        min_deadline_s=deadline,
    )
