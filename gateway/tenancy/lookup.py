"""Finding callers by their secrets' digests, with few queries however many ask at once."""

import asyncio
from typing import Final

from sqlalchemy import select

from gateway.database.errors import Sessions, transaction
from gateway.errors import LmaasError, OverLimit
from gateway.tenancy.caller import Caller
from models import ApiKey, App, Tenant

AT_ONCE: Final = 256  # digests a query
WAITING: Final = 2048  # digests that may wait for the running query


class CallerLookup:
    """Looks callers up in the database, one query at a time, each for all that wait.

    So somebody who guesses keys costs one query at a time, whatever the rate of guessing.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._waiting: dict[bytes, asyncio.Future[Caller | LmaasError | None]] = {}
        self._reader: asyncio.Task[None] | None = None

    async def find(self, digest: bytes) -> Caller | None:
        """The caller whose key is valid and has this digest. DatabaseLost, OverLimit."""
        answer = self._waiting.get(digest)
        if answer is None:
            if len(self._waiting) >= WAITING:
                raise OverLimit("too many unknown API keys at once")
            answer = asyncio.get_running_loop().create_future()
            self._waiting[digest] = answer
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
        # A waiter that is cancelled must not cancel the answer of the others.
        found = await asyncio.shield(answer)
        if isinstance(found, LmaasError):
            raise found
        return found

    async def _read(self) -> None:
        """Answer until nobody waits."""
        try:
            while self._waiting:
                asked = dict(list(self._waiting.items())[:AT_ONCE])
                for digest in asked:
                    del self._waiting[digest]
                await self._answer(asked)
        finally:
            self._reader = None

    async def _answer(self, asked: dict[bytes, asyncio.Future[Caller | LmaasError | None]]) -> None:
        try:
            found = await self._query(list(asked))
        except LmaasError as error:
            for answer in asked.values():
                answer.set_result(error)
            return
        except BaseException:
            for answer in asked.values():
                answer.cancel()
            raise
        for digest, answer in asked.items():
            answer.set_result(found.get(digest))

    async def _query(self, digests: list[bytes]) -> dict[bytes, Caller]:
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
