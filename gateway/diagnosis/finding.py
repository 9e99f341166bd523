"""A finding: what a check found, and the remedy if it is not as it should be."""

from typing import Literal, TypeAlias

from msgspec import Struct

Status: TypeAlias = Literal["ok", "warning", "failure"]


class Finding(Struct, frozen=True):
    """A sentence about one part; `remedy` is empty if its status is "ok".

    `failure`: requests are not served, or not safely. `warning`: they are, but worse than they
    could be.
    """

    part: str
    status: Status
    message: str
    remedy: str = ""


def ok(part: str, message: str) -> Finding:
    """The part is as it should be."""
    return Finding(part, "ok", message)


def warning(part: str, message: str, remedy: str) -> Finding:
    """The part works, but could work better."""
    return Finding(part, "warning", message, remedy)


def failure(part: str, message: str, remedy: str) -> Finding:
    """The part does not work."""
    return Finding(part, "failure", message, remedy)
