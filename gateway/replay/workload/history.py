"""The gateway's history as a workload: a time window, of one tenant or of all."""

from array import array
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import numpy as np
from msgspec import Struct
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.translation import Sessions, translated
from gateway.errors import InvalidRequest, NotFound
from gateway.quantiles import LEVELS
from gateway.replay.workload.workload import NO_USER, Workload
from models import App, RequestRecord, Tenant

CHUNK_ROWS: Final = 10_000


class HistoryWindow(Struct, frozen=True, kw_only=True):
    """The requests to read: from `since`, before `until`, of one tenant and model; None for any.

    `tenant` is a name or an id.
    """

    since: datetime | None = None
    until: datetime | None = None
    tenant: str | None = None
    model: str | None = None


async def read_history(sessions: Sessions, window: HistoryWindow) -> Workload:
    """The requests of a window that generated tokens, in order of arrival.

    Their quantiles are those predicted at the time. The length of an answer that was cut off is
    that of its part. InvalidRequest if there are no requests, or requests of several models;
    NotFound for an unknown tenant.
    """
    columns = _HistoryColumns()
    with translated():
        async with sessions() as session:
            await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            conditions = await _conditions(session, window)
            await _check_one_model(session, conditions)
            rows = await session.stream(_statement(conditions))
            async for chunk in rows.partitions(CHUNK_ROWS):
                columns.add(chunk)
            names = await _names(session, Tenant), await _names(session, App)
    return columns.workload(*names)


async def count_by_gateway(sessions: Sessions, window: HistoryWindow) -> dict[UUID, int]:
    """The number of a window's requests that each gateway served, those of earlier releases apart.

    InvalidRequest and NotFound as of `read_history`.
    """
    with translated():
        async with sessions() as session:
            conditions = await _conditions(session, window)
            await _check_one_model(session, conditions)
            rows = await session.execute(
                select(RequestRecord.gateway_id, func.count())
                .where(*conditions, RequestRecord.gateway_id.is_not(None))
                .group_by(RequestRecord.gateway_id)
            )
            return {gateway: count for gateway, count in rows if gateway is not None}


async def _conditions(session: AsyncSession, window: HistoryWindow) -> list[ColumnElement[bool]]:
    """Conditions for a row: served by a gateway, not imported, undamaged, and in the window."""
    conditions = [
        RequestRecord.generation_tokens > 0,
        RequestRecord.queued_s.is_not(None),
        func.cardinality(RequestRecord.quantiles) == len(LEVELS),
    ]
    if window.since is not None:
        conditions.append(RequestRecord.arrived_at >= window.since)
    if window.until is not None:
        conditions.append(RequestRecord.arrived_at < window.until)
    if window.model is not None:
        conditions.append(RequestRecord.model == window.model)
    if window.tenant is not None:
        conditions.append(RequestRecord.tenant_id == await _tenant_id(session, window.tenant))
    return conditions


async def _tenant_id(session: AsyncSession, tenant: str) -> UUID:
    """The id of a tenant given by name or id; an id need not exist, as history outlives tenants.

    Of several of that name, all but one deleted, it is the present one or the last deleted.
    """
    named = select(Tenant.id).where(Tenant.name == tenant)
    found = await session.scalar(named.order_by(Tenant.deleted_at.desc()).limit(1))
    if found is not None:
        return found
    try:
        return UUID(tenant)
    except ValueError:
        raise NotFound(f"there is no tenant {tenant}") from None


async def _check_one_model(session: AsyncSession, conditions: list[ColumnElement[bool]]) -> None:
    models = select(RequestRecord.model).where(*conditions).distinct().order_by(RequestRecord.model)
    found = list(await session.scalars(models))
    if not found:
        raise InvalidRequest("history has no request in that window")
    if len(found) > 1:
        raise InvalidRequest(f"the window has requests of {', '.join(found)}; name one model")


def _statement(conditions: list[ColumnElement[bool]]) -> Any:
    return (
        select(
            RequestRecord.arrived_at,
            RequestRecord.prompt_tokens,
            RequestRecord.generation_tokens,
            RequestRecord.max_tokens,
            RequestRecord.tenant_id,
            RequestRecord.app_id,
            RequestRecord.end_user,
            RequestRecord.quantiles,
        )
        .where(*conditions)
        .order_by(RequestRecord.arrived_at, RequestRecord.id)
        .execution_options(yield_per=CHUNK_ROWS)  # reads through a server-side cursor
    )


async def _names(session: AsyncSession, table: type[Tenant | App]) -> dict[UUID, str]:
    rows = await session.execute(select(table.id, table.name))
    return {row.id: row.name for row in rows}


class _HistoryColumns:
    """Collects rows, in order of arrival, in compact arrays."""

    def __init__(self) -> None:
        self._arrived = array("d")
        self._tokens = array("i")  # prompt, generation, max_tokens, tenant, app, user
        self._quantiles = array("f")
        self._tenants: dict[UUID, int] = {}
        self._apps: dict[UUID, int] = {}
        self._users: dict[str | None, int] = {None: NO_USER}

    def add(self, rows: Any) -> None:
        """Add a chunk of the statement's rows."""
        for arrived_at, prompt, generation, max_tokens, tenant, app, user, quantiles in rows:
            self._arrived.append((arrived_at - datetime.fromtimestamp(0, UTC)).total_seconds())
            tenant_number = self._tenants.setdefault(tenant, len(self._tenants))
            app_number = self._apps.setdefault(app, len(self._apps))
            user_number = self._users.setdefault(user, len(self._users))
            self._tokens.extend(
                (prompt, generation, max_tokens, tenant_number, app_number, user_number)
            )
            self._quantiles.extend(quantiles)

    def workload(self, tenants: dict[UUID, str], apps: dict[UUID, str]) -> Workload:
        """The requests; tenants and apps by name, or by id if they no longer exist."""
        columns = np.array(self._tokens).reshape(-1, 6).T
        prompt, generation, max_tokens, tenant, app, user = columns
        return Workload.of(
            np.array(self._arrived),
            prompt,
            generation,
            max_tokens=np.maximum(max_tokens, generation),
            quantiles=np.array(self._quantiles).reshape(-1, len(LEVELS)),
            tenant=tenant,
            app=app,
            user=user,
            tenants=[tenants.get(key, str(key)) for key in self._tenants],
            apps=[apps.get(key, str(key)) for key in self._apps],
        )
