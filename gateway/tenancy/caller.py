"""Who a request speaks for."""

from uuid import UUID

from msgspec import Struct


class Caller(Struct, frozen=True, kw_only=True):
    """An app of a tenant, known by one of its API keys; its registered instruction, if any.

    `share` is the tenant's weight among tenants.
    """

    tenant_id: UUID
    tenant: str
    app_id: UUID
    app: str
    api_key_id: UUID
    instruction: str | None
    share: float = 1.0
