"""What a tenant's share may be: its weight among the tenants that wait for the same engine."""

from typing import Final

from gateway.errors import InvalidRequest

LEAST: Final = 0.01
MOST: Final = 100.0


def checked_share(share: float) -> float:
    """`share`, if it can be one. InvalidRequest says what is accepted."""
    if LEAST <= share <= MOST:
        return share
    raise InvalidRequest(f"share is {share:g}; accepted is {LEAST:g} to {MOST:g}", param="share")
