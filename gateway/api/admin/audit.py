"""`/admin/audit`: who changed what, and when."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from msgspec import Struct

from gateway.api.admin.actor import area
from gateway.api.envelope import Limit, Listing, listing
from gateway.api.validation import STORABLE
from gateway.history.audit import AuditTrail
from gateway.tenancy.paging import Cursor
from gateway.tenancy.scopes import Scope

Before = Annotated[UUID | None, QueryParameter(description="last id of the previous page")]
Subject = Annotated[
    str | None, QueryParameter(pattern=STORABLE, description="only changes of this id or name")
]


class AuditAnswer(Struct, frozen=True, kw_only=True):
    """One change: the subject's state before and after."""

    id: UUID
    at: datetime
    actor: str
    action: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class AuditController(Controller):
    """Shows the audit trail."""

    path = "/audit"
    opt = area(Scope.READ)

    @get(summary="Read the audit trail")
    async def list_audit(
        self,
        trail: NamedDependency[AuditTrail],
        subject: Subject = None,
        before: Before = None,
        limit: Limit = 20,
    ) -> Listing[AuditAnswer]:
        """Changes, newest first; for the next page set `before` to the last id."""
        entries = await trail.list(limit + 1, before=before, subject=subject)
        return listing(AuditAnswer, Cursor(limit).page(entries))
