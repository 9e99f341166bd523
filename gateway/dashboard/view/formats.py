"""Numbers and times as the page writes them."""

from datetime import UTC, datetime
from math import isfinite
from typing import Final

NOTHING: Final = "–"
THOUSAND: Final = 1_000
TEN_THOUSAND: Final = 10_000
MINUTE_S: Final = 60
HOUR_S: Final = 3600
DAY_S: Final = 86_400
THREE_DIGITS: Final = 10
TWO_DIGITS: Final = 100


def number(value: float | None) -> str:
    """A count: `1,234`, from ten thousand on `12.3k`, `4.56M`."""
    if value is None or not isfinite(value):
        return NOTHING
    rounded = round(value)
    if abs(rounded) < TEN_THOUSAND:
        return f"{rounded:,}"
    scaled, unit = value / THOUSAND, "k"
    if abs(round(scaled)) >= THOUSAND:
        scaled, unit = scaled / THOUSAND, "M"
    return f"{_digits(scaled)}{unit}"


def decimal(value: float | None, digits: int = 2) -> str:
    """A measure with this many decimals."""
    return NOTHING if value is None or not isfinite(value) else f"{value:.{digits}f}"


def percent(share: float | None, digits: int = 0) -> str:
    """A share in per cent."""
    return NOTHING if share is None or not isfinite(share) else f"{100 * share:.{digits}f} %"


def seconds(value: float | None) -> str:
    """A duration with its unit: `0.35 s`, `4.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if value is None or not isfinite(value):
        return NOTHING
    if value < 0:
        return f"-{seconds(-value)}"
    if value < MINUTE_S:
        return f"{_digits(value)} s"
    whole = round(value)
    if whole < HOUR_S:
        return f"{whole // MINUTE_S} min {whole % MINUTE_S:02d} s"
    minutes = round(value / MINUTE_S)
    if value < DAY_S:
        return f"{minutes // MINUTE_S} h {minutes % MINUTE_S:02d} min"
    return f"{value / DAY_S:.1f} d"


def moment(at: datetime | str | None) -> str:
    """A time to the second, in UTC."""
    known = _time(at)
    return NOTHING if known is None else known.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def minute(at: datetime) -> str:
    """A time to the minute, in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def ago(at: datetime | str | None) -> str:
    """How long ago a time is."""
    known = _time(at)
    if known is None:
        return NOTHING
    passed_s = (datetime.now(UTC) - known).total_seconds()
    if passed_s < 1:
        return "now"
    for unit_s, unit in ((DAY_S, "d"), (HOUR_S, "h"), (MINUTE_S, "min")):
        if passed_s >= 2 * unit_s:
            return f"{passed_s / unit_s:.0f} {unit} ago"
    return f"{passed_s:.0f} s ago"


def short_id(value: object) -> str:
    """The end of an id, which differs most between ids of the same time."""
    return str(value).replace("-", "")[-8:]


def _time(at: datetime | str | None) -> datetime | None:
    if isinstance(at, str):
        return datetime.fromisoformat(at) if at else None
    return at


def _digits(value: float) -> str:
    """About three significant digits."""
    if abs(value) < THREE_DIGITS:
        return f"{value:.2f}"
    return f"{value:.1f}" if abs(value) < TWO_DIGITS else f"{value:.0f}"
