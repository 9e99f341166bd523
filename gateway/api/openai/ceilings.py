"""A client's own bounds on a request's predicted size, from its headers."""

import re
from decimal import Decimal
from typing import Annotated, Final, TypeAlias

from litestar.params import HeaderParameter

from gateway.errors import InvalidRequest
from gateway.generation.request import Ceiling

MAX_P90: Final = "x-lmaas-max-p90-tokens"
MAX_COST: Final = "x-lmaas-max-cost"
MAX_TOKENS: Final = 1_000_000_000
AMOUNT: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,10})?", re.ASCII)

MaxP90Header: TypeAlias = Annotated[
    str | None,
    HeaderParameter(
        name=MAX_P90,
        description="most tokens that an answer may have at its predicted 90 % quantile; "
        "400 `ceiling_exceeded` before anything is generated if it is more",
    ),
]
MaxCostHeader: TypeAlias = Annotated[
    str | None,
    HeaderParameter(
        name=MAX_COST,
        description="most that the request may cost if its answers reach their predicted 90 % "
        "quantile, such as `0.002`; 400 `ceiling_exceeded` if it is more",
    ),
]


async def provide_ceiling(
    max_p90: MaxP90Header = None, max_cost: MaxCostHeader = None
) -> Ceiling | None:
    """The dependency `ceiling`: the headers' values. InvalidRequest names an invalid header."""
    if max_p90 is None and max_cost is None:
        return None
    return Ceiling(answer_tokens=_tokens(max_p90), cost=_cost(max_cost))


def _tokens(value: str | None) -> int | None:
    if value is None:
        return None
    whole = value.isascii() and value.isdecimal() and len(value) <= len(str(MAX_TOKENS))
    if not whole or not 1 <= int(value) <= MAX_TOKENS:
        raise InvalidRequest(
            f"{MAX_P90} is {value[:40]!r}; accepted is a whole number of tokens, at least 1",
            param=MAX_P90,
        )
    return int(value)


def _cost(value: str | None) -> Decimal | None:
    if value is None:
        return None
    if not AMOUNT.fullmatch(value):
        raise InvalidRequest(
            f"{MAX_COST} is {value[:40]!r}; accepted are amounts such as '0.002'", param=MAX_COST
        )
    return Decimal(value)
