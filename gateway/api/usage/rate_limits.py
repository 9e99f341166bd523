"""Limits on use in response headers: OpenAI's for requests and tokens, and the gateway's own."""

from collections.abc import Mapping
from math import ceil, isfinite

from gateway.limits.limit import Quantity, Standing
from gateway.limits.request_hold import RequestHold

LIMIT = "x-lmaas-limit"  # the limit that refused a request or ended its answer
BEYOND = "x-lmaas-beyond-limits"  # the soft and warning limits that a request exceeds
MAX_RESET_S = 366 * 86_400.0


def standing_headers(standings: Mapping[Quantity, Standing]) -> dict[str, str]:
    """OpenAI's headers of how the limits on requests and tokens stand."""
    headers = {}
    for quantity, standing in standings.items():
        headers[f"x-ratelimit-limit-{quantity}"] = str(standing.limit)
        headers[f"x-ratelimit-remaining-{quantity}"] = str(standing.remaining)
        headers[f"x-ratelimit-reset-{quantity}"] = duration(standing.reset_s)
    return headers


def hold_headers(hold: RequestHold | None) -> dict[str, str]:
    """The headers of a request that was admitted."""
    if hold is None:
        return {}
    headers = standing_headers(hold.standings)
    if hold.beyond:
        named = [f"{limit.level} {limit.kind} {limit.effect}" for limit in hold.beyond]
        headers[BEYOND] = ", ".join(named)
    return headers


def duration(seconds: float) -> str:
    """A duration as OpenAI writes it, such as `120ms`, `59.3s` or `6m0s`; never too short."""
    if not isfinite(seconds):
        seconds = MAX_RESET_S
    milliseconds = ceil(max(seconds, 0.0) * 1_000)
    if milliseconds < 1_000:  # noqa: PLR2004  a second
        return f"{milliseconds}ms"
    if seconds < 60:  # noqa: PLR2004  a minute
        return f"{milliseconds / 1_000:g}s"
    minutes, rest = divmod(ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
