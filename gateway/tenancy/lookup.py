"""Finds callers by their secrets' digests, batching concurrent look-ups into few queries."""

import asyncio
from typing import Final

from sqlalchemy import select

from gateway.database.errors import Sessions, transaction
from gateway.errors import LmaasError, OverLimit
from gateway.tenancy.caller import Caller
from models import ApiKey, App, Tenant

MAX_DIGESTS_PER_QUERY: Final = 256
MAX_WAITING_DIGESTS: Final = 2048  # while another query runs


class CallerLookup:
    """Looks callers up in the database; one query at a time serves all that wait.

    So a client that guesses keys causes one query at a time, whatever its rate.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._waiting: dict[bytes, asyncio.Future[Caller | LmaasError | None]] = {}
        self._reader: asyncio.Task[None] | None = None

    async def find(self, digest: bytes) -> Caller | None:
        """The caller whose key is valid and has this digest. DatabaseLost, OverLimit."""
        answer = self._waiting.get(digest)
        if answer is None:
            if len(self._waiting) >= MAX_WAITING_DIGESTS:
                raise OverLimit("too many unknown API keys at once")
            answer = asyncio.get_running_loop().create_future()
            self._waiting[digest] = answer
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
        # A cancelled waiter must not cancel the answer for the others.
        found = await asyncio.shield(answer)
        if isinstance(found, LmaasError):
            raise found
        return found

    async def _read(self) -> None:
        """Look up batches until no digest waits."""
        try:
            while self._waiting:
                batch = dict(list(self._waiting.items())[:MAX_DIGESTS_PER_QUERY])
                for digest in batch:
                    del self._waiting[digest]
                await self._resolve(batch)
        finally:
            self._reader = None

    async def _resolve(
        self, batch: dict[bytes, asyncio.Future[Caller | LmaasError | None]]
    ) -> None:
        try:
            found = await self._select_callers(list(batch))
        except LmaasError as error:
            for answer in batch.values():
                answer.set_result(error)
            return
        except BaseException:
            for answer in batch.values():
                answer.cancel()
            raise
        for digest, answer in batch.items():
            answer.set_result(found.get(digest))

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
            )
            .join(App, App.id == ApiKey.app_id)
            .join(Tenant, Tenant.id == App.tenant_id)
            .where(ApiKey.digest.in_(digests), ApiKey.revoked_at.is_(None))
        )
        async with transaction(self._sessions) as session:
            rows = (await session.execute(statement)).all()
        return {
            digest: Caller(
                tenant_id=tenant_id,
                tenant=tenant,
                app_id=app_id,
                app=app,
                api_key_id=key_id,
                instruction=instruction,
                share=share,
            )
            for digest, key_id, app_id, app, instruction, tenant_id, tenant, share in rows
        }
