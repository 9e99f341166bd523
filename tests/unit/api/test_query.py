"""Query parameters are strict, whatever the route declares."""

from collections.abc import AsyncIterator
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import httpx
import pytest
from litestar import Litestar, get
from litestar.di import NamedDependency, Provide
from litestar.params import QueryParameter

from gateway.api.errors import exception_handlers
from gateway.api.query import check_query


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


async def provide_page(limit: Annotated[int, QueryParameter(ge=1)] = 20) -> int:
    return limit


@get("/items")
async def items(
    page: NamedDependency[int],
    share: Annotated[float | None, QueryParameter()] = None,
    all_of_them: Annotated[bool, QueryParameter(name="all")] = False,
    colour: Annotated[Colour | None, QueryParameter()] = None,
    order: Annotated[Literal["up", "down"], QueryParameter()] = "up",
    owner: Annotated[UUID | None, QueryParameter()] = None,
    since: Annotated[datetime | None, QueryParameter()] = None,
) -> dict[str, Any]:
    return {
        "limit": page,
        "share": share,
        "all": all_of_them,
        "colour": colour,
        "order": order,
        "owner": owner,
        "since": since,
    }


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = Litestar(
        [items],
        dependencies={"page": Provide(provide_page)},
        before_request=check_query,
        exception_handlers=exception_handlers,
        logging_config=None,
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


async def test_values_of_their_type_are_read(client: httpx.AsyncClient) -> None:
    query = "limit=5&share=1e-1&all=true&colour=blue&order=down&since=2026-11-29T12:00:00Z"
    answer = (await client.get(f"/items?{query}")).json()
    assert answer == {
        "limit": 5,
        "share": 0.1,
        "all": True,
        "colour": "blue",
        "order": "down",
        "owner": None,
        "since": "2026-11-29T12:00:00Z",
    }


@pytest.mark.parametrize(
    "value",
    ["5.0", "1e2", "05", "+5", "1_0", " 5", "\N{ARABIC-INDIC DIGIT FIVE}", "", "true", "0x5"],
)
async def test_integers_are_digits(client: httpx.AsyncClient, value: str) -> None:
    await refused(client, "limit", value, "whole number")


@pytest.mark.parametrize("value", [".5", "5.", "inf", "nan", "1_0.5", "", "0,5"])
async def test_numbers_are_those_of_json(client: httpx.AsyncClient, value: str) -> None:
    await refused(client, "share", value, "number")


@pytest.mark.parametrize("value", ["1", "on", "True", "yes", ""])
async def test_booleans_are_true_and_false(client: httpx.AsyncClient, value: str) -> None:
    await refused(client, "all", value, "true and false")


@pytest.mark.parametrize("value", ["0.5", "1795955719", "noon", "", "2026-11"])
async def test_times_are_dates_with_a_time(client: httpx.AsyncClient, value: str) -> None:
    await refused(client, "since", value, "2026-11-29T12:00:00Z")


@pytest.mark.parametrize(("name", "accepted"), [("colour", "red, blue"), ("order", "up, down")])
async def test_enumerations_name_what_they_accept(
    client: httpx.AsyncClient, name: str, accepted: str
) -> None:
    await refused(client, name, "green", accepted)


async def refused(client: httpx.AsyncClient, name: str, value: str, words: str) -> None:
    response = await client.get("/items", params={name: value})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "invalid_value", name)
    assert words in error["message"]


async def test_parameter_sent_twice_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.get("/items?limit=1&limit=2")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "limit"


async def test_unknown_parameter_is_refused_with_the_known_ones(client: httpx.AsyncClient) -> None:
    response = await client.get("/items", params={"limt": "5", "x" * 5000: "1"})
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_parameter", "limt")
    assert "all, colour, limit, order, owner, share" in error["message"]
