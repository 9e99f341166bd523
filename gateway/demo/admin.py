"""The admin API as the demo uses it, and the policy, which it changes and puts back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeAlias

from gateway.errors import LmaasError

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

    def fetch(self, path: str) -> bytes:
        """The bytes that a GET answers."""

    def all(self, path: str) -> Iterator[dict[str, Any]]:
        """Every item of a list."""


@contextmanager
def policy_kept(admin: Admin, say: Say) -> Iterator[None]:
    """The policy at work is put back on leaving, come what may."""
    before = admin.get(POLICY)["name"]
    try:
        yield
    finally:
        with reported(say, f"the policy {before} is not put back"):
            admin.put(POLICY, name=before)


def use_policy(admin: Admin, name: str) -> None:
    """Schedule by this policy from now on."""
    admin.put(POLICY, name=name)


@contextmanager
def reported(say: Say, failure: str) -> Iterator[None]:
    """Say what cannot be put back; it hinders nothing else from being put back."""
    try:
        yield
    except LmaasError as error:
        say(f"{failure}: {error.message}")
