"""Fields of the page's forms: each is checked, and an error names what is accepted."""

from collections.abc import Iterable
from datetime import UTC, datetime

from gateway.api.usage.request_list import in_utc
from gateway.errors import InvalidRequest


def time_field(name: str, given: str) -> datetime | None:
    """A time, of UTC if it names no zone; None if it is empty. InvalidRequest."""
    try:
        found = in_utc(datetime.fromisoformat(given)) if given else None
        return None if found is None else found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(
            f"{name}: accepted is a time like 2026-01-31T09:00", param=name
        ) from error


def number_field(name: str, given: str, low: float, high: float) -> float | None:
    """A number from `low` to `high`; None if it is empty. InvalidRequest."""
    try:
        value = float(given) if given else None
    except ValueError:
        value = float("nan")
    if value is not None and not low <= value <= high:
        raise InvalidRequest(f"{name}: accepted is {low:g} to {high:g}", param=name)
    return value


def choice_field(name: str, given: str, accepted: Iterable[str]) -> str:
    """One of the accepted texts, of which one may be empty. InvalidRequest."""
    known = [*accepted]
    if given not in known:
        names = ", ".join(filter(None, known))
        raise InvalidRequest(f"{name}: accepted are {names}", param=name)
    return given
