"""Ended requests and closed connections are freed without a search for garbage."""

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import AsyncGeneratorType
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.api.body import BoundedRequest
from gateway.api.connections.protocol import BoundedHttpProtocol
from gateway.api.openai import streams
from gateway.errors import LmaasError
from gateway.generation.request_state import RequestState
from gateway.prediction.serving.open_prediction import OpenPrediction
from gateway.scheduling.lmaas.cost_class import QueueEntry

KINDS = (
    BoundedHttpProtocol,
    BoundedRequest,
    LmaasError,
    OpenPrediction,
    QueueEntry,
    RequestResponseCycle,
    RequestState,
)
REQUESTS = 4
MODEL = "lmaas-demo"
KING = {"role": "user", "content": "king"}
REFUSED: dict[str, tuple[int, dict[str, Any]]] = {
    "wrong type": (400, {"messages": [KING], "tools": [[]] * 9_000}),
    "too many values": (413, {"messages": [KING], "tools": [[]] * 90_000}),
    "too long": (400, {"messages": [KING] * 3_900}),
    "no such model": (404, {"messages": [KING], "model": "another"}),
    "no answer fits": (400, {"messages": [KING], "max_tokens": 5_000}),
    "wrong schema": (
        400,
        {
            "messages": [KING],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {"type": "nothing"}},
            },
        },
    ),
}


def alive() -> Counter[str]:
    """How many objects of each kind, and streams, there are."""
    found: Counter[str] = Counter()
    for each in gc.get_objects():
        kind = type(each)
        if issubclass(kind, KINDS):
            found[kind.__name__] += 1
        elif kind is AsyncGeneratorType and each.ag_code.co_filename == streams.__file__:
            found[each.__qualname__] += 1
    return found


@contextmanager
def no_search() -> Iterator[None]:
    """What is in cycles stays."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def test_ended_requests_are_freed_without_a_search_for_garbage(gateway: Any) -> None:
    with no_search():
        before = alive()
        async with gateway.client() as client:
            for number in range(REQUESTS):
                body = {
                    "model": MODEL,
                    "messages": [{"role": "user", "content": f"king {number}"}],
                    "max_tokens": 4,
                    "stream": number % 2 == 0,
                }
                answer = await client.post("/v1/chat/completions", json=body)
                assert answer.status_code == 200
        await gateway.until(lambda: not alive() - before)


@pytest.mark.parametrize("refused", REFUSED)
async def test_refused_requests_are_freed_without_a_search_for_garbage(
    gateway: Any, refused: str
) -> None:
    status, fields = REFUSED[refused]
    with no_search():
        before = alive()
        async with gateway.client() as client:
            for _ in range(REQUESTS):
                answer = await client.post("/v1/chat/completions", json={"model": MODEL, **fields})
                assert answer.status_code == status, answer.text
        await gateway.until(lambda: not alive() - before)
