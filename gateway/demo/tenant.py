"""The demo's own tenant: an app for each instruction, and a key for each while the demo runs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from msgspec import Struct

from gateway.demo.admin import Admin, Say, reported

TENANT: Final = "lmaas demo"  # not `demo`, which a first start makes for the user's own requests
KEY: Final = "lmaas demo"


class DemoTenant(Struct, frozen=True):
    """The tenant's id, and the secret of each app's key."""

    id: str
    keys: dict[str, str]


@contextmanager
def demo_tenant(admin: Admin, instructions: Mapping[str, str], say: Say) -> Iterator[DemoTenant]:
    """The tenant with an app for each of these instructions; its keys are revoked on leaving.

    Tenant and apps stay for the next demo. Keys that a killed demo left are revoked.
    """
    tenant = _tenant(admin)
    apps = _apps(admin, tenant, instructions)
    _revoke_left(admin, apps)
    made: dict[str, str] = {}
    secrets: dict[str, str] = {}
    try:
        for name, app in apps.items():
            key = admin.post(f"/admin/apps/{app}/keys", name=KEY)
            made[name], secrets[name] = key["id"], key["secret"]
        yield DemoTenant(tenant, secrets)
    finally:
        for name, key_id in made.items():
            with reported(say, f"the key {key_id} of the app {name} is not revoked"):
                admin.delete(f"/admin/keys/{key_id}")


def _tenant(admin: Admin) -> str:
    tenants = admin.all("/admin/tenants")
    tenant = next((each for each in tenants if each["name"] == TENANT), None)
    return str((tenant or admin.post("/admin/tenants", name=TENANT))["id"])


def _apps(admin: Admin, tenant: str, instructions: Mapping[str, str]) -> dict[str, str]:
    """The id of each app by its name; in the tenant they are called `demo <name>`.

    So an app of the same name in another tenant can still be found by its name alone.
    """
    path = f"/admin/tenants/{tenant}/apps"
    known = {app["name"]: app["id"] for app in admin.all(path)}
    return {
        name: known.get(f"demo {name}")
        or admin.post(path, name=f"demo {name}", instruction=instruction)["id"]
        for name, instruction in instructions.items()
    }


def _revoke_left(admin: Admin, apps: Mapping[str, str]) -> None:
    for app in apps.values():
        for key in admin.all(f"/admin/apps/{app}/keys"):
            if key["name"] == KEY and key["revoked_at"] is None:
                admin.delete(f"/admin/keys/{key['id']}")
