"""The admin API as the demo uses it, and the policy that it changes and restores."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeAlias

from gateway.errors import LmaasError

POLICY: Final = "/admin/policy"

Report: TypeAlias = Callable[[str], None]


class Admin(Protocol):
    """The admin API. Its calls raise LmaasError with the server's message."""

    def get(self, path: str, **query: Any) -> Any:
        """The answer to a GET."""

    def post(self, path: str, **body: Any) -> Any:
        """The answer to a POST."""

    def put(self, path: str, **body: Any) -> Any:
        """The answer to a PUT."""

    def delete(self, path: str) -> Any:
        """The answer to a DELETE."""

    def fetch(self, path: str) -> bytes:
        """The body of a GET's response."""

    def all(self, path: str) -> Iterator[dict[str, Any]]:
        """Every item of a list, from all its pages."""


@contextmanager
def restored_policy(admin: Admin, report: Report) -> Iterator[None]:
    """Restores the active policy on leaving, also after an error."""
    before = admin.get(POLICY)["name"]
    try:
        yield
    finally:
        with report_failure(report, f"the policy {before} is not restored"):
            admin.put(POLICY, name=before)


def use_policy(admin: Admin, name: str) -> None:
    """Activate a scheduling policy."""
    admin.put(POLICY, name=name)


@contextmanager
def report_failure(report: Report, failure: str) -> Iterator[None]:
    """Reports an LmaasError inside instead of raising it, so that later clean-up still runs."""
    try:
        yield
    except LmaasError as error:
        report(f"{failure}: {error.message}")
