"""Clients' timeouts, from their headers."""

from collections.abc import AsyncIterator

import httpx
import pytest
from litestar import Litestar, get
from litestar.di import NamedDependency, Provide

from gateway.api.errors import exception_handlers
from gateway.api.openai.timeouts import (
    DEADLINE,
    MAX_QUEUE,
    READ_TIMEOUT,
    TIMEOUT,
    ClientTimeouts,
    provide_timeouts,
    screen_metadata,
)
from gateway.errors import InvalidRequest

DEPENDENCIES = {"timeouts": Provide(provide_timeouts)}


@get("/", dependencies=DEPENDENCIES)
async def echo(timeouts: NamedDependency[ClientTimeouts]) -> ClientTimeouts:
    return timeouts


@pytest.fixture
def application() -> Litestar:
    return Litestar([echo], exception_handlers=exception_handlers)


@pytest.fixture
async def client(application: Litestar) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


@pytest.mark.parametrize(
    ("headers", "deadline_s", "max_queue_s", "read_timeout_s"),
    [
        ({}, None, None, None),
        ({DEADLINE: "1500"}, 1.5, None, None),
        ({MAX_QUEUE: "1"}, None, 0.001, None),
        ({DEADLINE: "86400000", MAX_QUEUE: "86400000"}, 86_400.0, 86_400.0, None),
        ({READ_TIMEOUT: "600"}, None, 599.0, 600.0),
        ({READ_TIMEOUT: "0.25"}, None, 0.225, 0.25),
        ({TIMEOUT: "60"}, None, 59.0, 60.0),
        ({READ_TIMEOUT: "600", MAX_QUEUE: "20"}, None, 0.02, 600.0),
        ({READ_TIMEOUT: "inf", DEADLINE: "20"}, 0.02, None, None),
        ({TIMEOUT: "0"}, None, None, None),
        ({TIMEOUT: "1e9"}, None, None, None),
    ],
)
async def test_headers_are_converted_to_seconds(
    client: httpx.AsyncClient,
    headers: dict[str, str],
    deadline_s: float | None,
    max_queue_s: float | None,
    read_timeout_s: float | None,
) -> None:
    response = await client.get("/", headers=headers)
    assert response.json() == {
        "deadline_s": deadline_s,
        "max_queue_s": max_queue_s,
        "read_timeout_s": read_timeout_s,
        "received_s": None,
    }


@pytest.mark.parametrize(
    ("read_timeout_s", "interval_s"),
    [(None, 10.0), (600.0, 10.0), (6.0, 2.0), (0.3, pytest.approx(0.1)), (1e-9, 0.05)],
)
def test_comments_come_at_a_third_of_the_clients_timeout(
    read_timeout_s: float | None, interval_s: float
) -> None:
    assert ClientTimeouts(read_timeout_s=read_timeout_s).comment_interval_s == interval_s


@pytest.mark.parametrize("header", [DEADLINE, MAX_QUEUE])
@pytest.mark.parametrize("value", ["", "0", "-5", "1.5", "1e3", "soon", "86400001", "9" * 400, "٣"])
async def test_wrong_milliseconds_are_a_400_that_names_the_header(
    client: httpx.AsyncClient, header: str, value: str
) -> None:
    response = await client.get("/", headers={header: value.encode()})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, header)
    assert error["message"].startswith(f"{header} is ")
    assert error["message"].endswith("a whole number of milliseconds, 1 to 86400000")
    assert len(error["message"]) < 200


@pytest.mark.parametrize("value", ["", "nan", "a minute"])
async def test_invalid_client_timeout_is_named(client: httpx.AsyncClient, value: str) -> None:
    error = (await client.get("/", headers={READ_TIMEOUT: value})).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", READ_TIMEOUT)


def test_headers_are_documented(application: Litestar) -> None:
    operation = application.openapi_schema.to_schema()["paths"]["/"]["get"]
    documented = {each["name"]: each for each in operation["parameters"]}
    assert documented.keys() == {DEADLINE, MAX_QUEUE, READ_TIMEOUT, TIMEOUT}
    assert all(each["in"] == "header" and not each["required"] for each in documented.values())
    assert "milliseconds" in documented[DEADLINE]["description"]


def test_metadata_sets_timeouts_that_no_header_sets() -> None:
    given = {DEADLINE: "5000", MAX_QUEUE: "250"}
    assert ClientTimeouts().with_metadata(given) == ClientTimeouts(5.0, 0.25)
    assert ClientTimeouts(deadline_s=1.0).with_metadata(given) == ClientTimeouts(1.0, 0.25)
    by_client = ClientTimeouts(max_queue_s=9.0, read_timeout_s=10.0)
    assert by_client.with_metadata(given).max_queue_s == 0.25
    assert by_client.with_metadata({DEADLINE: "5000"}).max_queue_s == 9.0


def test_invalid_metadata_is_refused_as_its_header_is() -> None:
    with pytest.raises(InvalidRequest, match=f"{DEADLINE} is 'soon'") as refused:
        ClientTimeouts().with_metadata({DEADLINE: "soon"})
    assert refused.value.param == DEADLINE


@pytest.mark.parametrize(
    ("metadata", "kept", "ignored"),
    [
        ({"a": "b"}, None, ["metadata"]),
        ({DEADLINE: 5000, "a": "b"}, {DEADLINE: "5000"}, ["metadata"]),
        ({DEADLINE: "5000"}, {DEADLINE: "5000"}, []),
        ("text", None, ["metadata"]),
        (None, None, []),
    ],
)
def test_other_metadata_is_named_as_ignored(
    metadata: object, kept: object, ignored: list[str]
) -> None:
    fields = {"metadata": metadata}
    assert screen_metadata(fields) == ignored
    assert fields.get("metadata") == kept
