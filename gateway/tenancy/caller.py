"""The caller of a request."""

from uuid import UUID

from msgspec import Struct


class Caller(Struct, frozen=True, kw_only=True):
    """An app of a tenant, identified by one of the app's API keys.

    `instruction` is the app's registered one, if any; `share` the tenant's weight against others.
    """

    tenant_id: UUID
    tenant: str
    app_id: UUID
    app: str
    api_key_id: UUID
    instruction: str | None
    share: float = 1.0
