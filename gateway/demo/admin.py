"""What the demo changes through the admin API, and puts back: keys and the policy."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeAlias

from gateway.errors import LmaasError

TENANT: Final = "demo"
POLICY: Final = "/admin/policy"

Say: TypeAlias = Callable[[str], None]


class Admin(Protocol):
    """The admin API. Its calls raise LmaasError in the server's words."""

    def get(self, path: str, **query: Any) -> Any:
        """The answer to a GET."""

    def post(self, path: str, **body: Any) -> Any:
        """The answer to a POST."""

    def put(self, path: str, **body: Any) -> Any:
        """The answer to a PUT."""

    def delete(self, path: str) -> Any:
        """The answer to a DELETE."""

    def all(self, path: str) -> Iterator[dict[str, Any]]:
        """Every item of a list."""


@contextmanager
def keys_for(admin: Admin, apps: Collection[str], say: Say) -> Iterator[dict[str, str]]:
    """A key for each of these apps that the demo tenant has; revoked on leaving, come what may."""
    made: dict[str, str] = {}
    secrets: dict[str, str] = {}
    try:
        for app in _apps(admin):
            if app["name"] in apps:
                key = admin.post(f"/admin/apps/{app['id']}/keys", name="lmaas demo")
                made[app["name"]], secrets[app["name"]] = key["id"], key["secret"]
        if not secrets:
            raise LmaasError(f"the tenant {TENANT!r} has none of the apps {', '.join(apps)}")
        yield secrets
    finally:
        for app_name, key_id in made.items():
            with _told(say, f"the key {key_id} of the app {app_name} is not revoked"):
                admin.delete(f"/admin/keys/{key_id}")


def _apps(admin: Admin) -> list[dict[str, Any]]:
    tenants = admin.all("/admin/tenants")
    tenant = next((each for each in tenants if each["name"] == TENANT), None)
    if tenant is None:
        raise LmaasError(f"there is no tenant {TENANT!r}, which a first start makes")
    return list(admin.all(f"/admin/tenants/{tenant['id']}/apps"))


@contextmanager
def policy_kept(admin: Admin, say: Say) -> Iterator[None]:
    """The policy at work is put back on leaving, come what may."""
    before = admin.get(POLICY)["name"]
    try:
        yield
    finally:
        with _told(say, f"the policy {before} is not put back"):
            admin.put(POLICY, name=before)


def use_policy(admin: Admin, name: str) -> None:
    """Schedule by this policy from now on."""
    admin.put(POLICY, name=name)


@contextmanager
def _told(say: Say, failure: str) -> Iterator[None]:
    """What cannot be put back is told, and hinders nothing else from being put back."""
    try:
        yield
    except LmaasError as error:
        say(f"{failure}: {error.message}")
