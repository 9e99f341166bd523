"""The error for a request that a hard limit refuses."""

from collections.abc import Mapping
from decimal import Decimal
from math import isinf
from typing import Final

from gateway.errors import CeilingExceeded, LimitReached
from gateway.generation.queue.load import MAX_CLIENT_WAIT_S
from gateway.generation.request import Ceiling
from gateway.limits.hold_ledger import Refused
from gateway.limits.limit import BILLIONTHS, UNITS, Limit, Quantity, Standing
from gateway.usage.prices import money

PERIODS: Final = {"at_once": "at once", "minute": "a minute", "day": "a day", "month": "a month"}
NAMES: Final[dict[Quantity, str]] = {
    "requests": "requests",
    "tokens": "tokens",
    "cost": "of cost",
    "kv_share": "of the KV memory",
}
OWNERS: Final = {
    "node": "the gateway's limit",
    "tenant": "your tenant's limit",
    "app": "your app's limit",
    "key": "your key's limit",
    "user": "the user's limit",
}


def limit_reached(refused: Refused, standings: Mapping[Quantity, Standing]) -> LimitReached:
    """The error, with the time at which the request could be admitted."""
    limit = refused.limit
    left = "" if limit.level == "node" else f", {_amount(limit, refused.left)} left"
    needed = _amount(limit, refused.asked)
    reached = f"{_described(limit)} is reached: {needed} needed{left}"
    shown = dict(standings)
    if limit.quantity in {"requests", "tokens"} and limit.level != "node":
        shown[limit.quantity] = Standing(limit.amount, refused.left, refused.wait_s)
    never = isinf(refused.wait_s)
    return LimitReached(
        f"{_described(limit)} is below the {needed} that this request needs" if never else reached,
        retry_after_s=refused.wait_s,
        should_retry=refused.wait_s <= MAX_CLIENT_WAIT_S,
        limit=f"{limit.level} {limit.kind}",
        standings=shown,
    )


def refuse_above(ceiling: Ceiling, answer_tokens: int, cost: int) -> None:
    """CeilingExceeded if the predicted tokens of an answer or the cost are above a ceiling.

    `cost` is in billionths of the currency unit.
    """
    if ceiling.answer_tokens is not None and answer_tokens > ceiling.answer_tokens:
        raise CeilingExceeded(
            f"an answer is predicted to have up to {answer_tokens} tokens (90 % quantile); "
            f"x-lmaas-max-p90-tokens allows {ceiling.answer_tokens}",
            param="x-lmaas-max-p90-tokens",
        )
    if ceiling.cost is not None and cost > ceiling.cost * BILLIONTHS:
        raise CeilingExceeded(
            f"the request is predicted to cost up to {money(Decimal(cost) / BILLIONTHS)} "
            f"(90 % quantile); x-lmaas-max-cost allows {money(ceiling.cost)}",
            param="x-lmaas-max-cost",
        )


def _described(limit: Limit) -> str:
    amount = f"{_amount(limit, limit.amount)} {NAMES[limit.quantity]}"
    return f"{OWNERS[limit.level]} of {amount} {PERIODS[limit.period]}"


def _amount(limit: Limit, amount: int) -> str:
    return money(Decimal(amount) / UNITS[limit.quantity])
