"""Validates a share: the weight of a tenant or app against others that wait."""

from typing import Final

from gateway.errors import InvalidRequest

MIN_SHARE: Final = 0.01
MAX_SHARE: Final = 100.0


def checked_share(share: float) -> float:
    """`share`, if it is valid. InvalidRequest says what is accepted."""
    if MIN_SHARE <= share <= MAX_SHARE:
        return share
    raise InvalidRequest(
        f"share is {share:g}; accepted is {MIN_SHARE:g} to {MAX_SHARE:g}", param="share"
    )
