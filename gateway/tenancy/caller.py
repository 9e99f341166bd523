"""The caller of a request."""

from datetime import datetime
from math import isfinite
from uuid import UUID

from msgspec import Struct

from engine.protocol import KvPlacement


class Caller(Struct, frozen=True, kw_only=True):
    """An app of a tenant, identified by one of the app's API keys.

    `instruction` is the app's registered one, if any; `share` the tenant's weight against others,
    `app_share` the app's among those of the tenant, `memory` where keys and values may be of its
    requests that do not say it.
    The key is valid before `expires_at`; None: until it is revoked. Its requests may have one of
    `service_tiers`, None: any, and a deadline not below `min_deadline_s`.
    """

    tenant_id: UUID
    tenant: str
    app_id: UUID
    app: str
    api_key_id: UUID
    instruction: str | None
    share: float = 1.0
    app_share: float = 1.0
    memory: KvPlacement = "device"
    expires_at: datetime | None = None
    service_tiers: tuple[str, ...] | None = None
    min_deadline_s: float | None = None


def weight_of(share: float) -> float:
    """A stored share as a weight; 1 if it is none: the database has NaN and infinity, too."""
    return share if isfinite(share) and share > 0 else 1.0
