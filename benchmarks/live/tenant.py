"""A tenant with several apps, made through the admin API."""

from collections.abc import Iterable
from typing import Self

from msgspec import Struct

from gateway.cli.admin.client import AdminClient


class Tenant(Struct, frozen=True):
    """A tenant, with the id and a key of each of its apps by name."""

    id: str
    apps: dict[str, str]
    keys: dict[str, str]

    @classmethod
    def create(cls, admin: AdminClient, name: str, apps: Iterable[str]) -> Self:
        """Create the tenant and its apps, without instructions: each request brings its own."""
        tenant = str(admin.post("/admin/tenants", name=name)["id"])
        ids = {
            app: str(admin.post(f"/admin/tenants/{tenant}/apps", name=app)["id"])
            for app in sorted(set(apps))
        }
        keys = {
            app: str(admin.post(f"/admin/apps/{made}/keys", name=name)["secret"])
            for app, made in ids.items()
        }
        return cls(tenant, ids, keys)
