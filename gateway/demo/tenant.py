"""The demo's own tenant: an app for each instruction, with a key while the demo runs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from msgspec import Struct

from gateway.demo.admin import Admin, Report, report_failure
from gateway.demo.apps import DemoApp

TENANT: Final = "lmaas demo"  # not `demo`, which the first start creates for the user
KEY: Final = "lmaas demo"


class DemoTenant(Struct, frozen=True):
    """The tenant's id, and each app's API key by the app's name."""

    id: str
    keys: dict[str, str]


@contextmanager
def demo_tenant(admin: Admin, demo_apps: Sequence[DemoApp], report: Report) -> Iterator[DemoTenant]:
    """The tenant with an app and a key for each of `demo_apps`; the keys are revoked on leaving.

    Tenant and apps stay for the next demo. Keys left by a killed demo are revoked first.
    """
    tenant = _tenant(admin)
    apps = _apps(admin, tenant, demo_apps)
    _revoke_leftovers(admin, apps)
    made: dict[str, str] = {}
    secrets: dict[str, str] = {}
    try:
        for name, app in apps.items():
            key = admin.post(f"/admin/apps/{app}/keys", name=KEY)
            made[name], secrets[name] = key["id"], key["secret"]
        yield DemoTenant(tenant, secrets)
    finally:
        for name, key_id in made.items():
            with report_failure(report, f"the key {key_id} of the app {name} is not revoked"):
                admin.delete(f"/admin/keys/{key_id}")


def _tenant(admin: Admin) -> str:
    tenants = admin.all("/admin/tenants")
    tenant = next((each for each in tenants if each["name"] == TENANT), None)
    return str((tenant or admin.post("/admin/tenants", name=TENANT))["id"])


def _apps(admin: Admin, tenant: str, demo_apps: Sequence[DemoApp]) -> dict[str, str]:
    """App ids by the app's name in `demo_apps`; creates missing apps.

    The tenant's apps are called `demo <name>`, so that an app of the same name in another tenant
    can still be found by its name alone.
    """
    path = f"/admin/tenants/{tenant}/apps"
    known = {app["name"]: app["id"] for app in admin.all(path)}
    return {
        app.name: known.get(f"demo {app.name}")
        or admin.post(path, name=f"demo {app.name}", instruction=app.instruction)["id"]
        for app in demo_apps
    }


def _revoke_leftovers(admin: Admin, apps: Mapping[str, str]) -> None:
    for app in apps.values():
        for key in admin.all(f"/admin/apps/{app}/keys"):
            if key["name"] == KEY and key["revoked_at"] is None:
                admin.delete(f"/admin/keys/{key['id']}")
