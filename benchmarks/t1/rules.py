"""Rules of how much a request holds of its budget: the gateway's, and what others do."""

from collections.abc import Callable, Mapping
from math import ceil
from typing import Final, NamedTuple

from gateway.limits.hold_size import first_hold, further_hold
from gateway.scheduling.requests import QueuedRequest

CONSTANT: Final = 4_096  # tokens of an answer
GROWTH: Final = 0.25  # of the answer so far, where a rule knows no distribution
OURS: Final = "ours"


class Rule(NamedTuple):
    """`first` holds before the answer, `further` once it has outgrown its hold; both in tokens."""

    first: Callable[[QueuedRequest, str], int]
    further: Callable[[QueuedRequest, int], int]


def rules(app_p90: Mapping[str, float]) -> dict[str, Rule]:
    """The rules by name; `app_p90` has the 0.9 quantile of earlier answers of each app."""

    def of_app(request: QueuedRequest, app: str) -> int:
        return request.prompt_tokens + ceil(app_p90[app])

    return {
        OURS: Rule(
            lambda request, _: first_hold(
                request.prompt_tokens, request.quantiles, request.max_tokens
            ),
            lambda request, generated: further_hold(
                request.quantiles, request.max_tokens, generated
            ),
        ),
        "P90 per app": Rule(of_app, _a_quarter_more),
        "constant of 4,096": Rule(
            lambda request, _: request.prompt_tokens + CONSTANT, _a_quarter_more
        ),
        "max_tokens": Rule(
            lambda request, _: request.prompt_tokens + request.max_tokens, _a_quarter_more
        ),
    }


def _a_quarter_more(request: QueuedRequest, generated: int) -> int:
    return min(ceil(GROWTH * generated), request.max_tokens - generated)
