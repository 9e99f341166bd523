"""Limits of connections and request bodies in a gateway started by `lmaas serve`."""

import json
import socket
from typing import Any
from urllib.parse import urlsplit


async def test_oversized_headers_are_refused(served: Any) -> None:
    address = urlsplit(served.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * (96 << 10))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 431 ")


async def test_body_is_bounded_by_the_models_context_and_by_its_values(served: Any) -> None:
    message = {"role": "user", "content": ""}
    async with served.caller() as caller:
        for messages in (300_000, 10_000):
            body = json.dumps({"model": "lmaas-demo", "messages": [message] * messages})
            response = await caller.post("/v1/chat/completions", content=body)
            assert response.status_code == 413
            assert response.json()["error"]["code"] == "request_too_large"


async def test_import_may_be_larger_than_a_request(served: Any) -> None:
    async with served.admin() as admin:
        response = await admin.post("/admin/predictors/samples", content=b"x" * (2 << 20))
        assert response.status_code == 400


async def test_routes_without_a_key_answer(served: Any) -> None:
    async with served.stranger() as client:
        assert (await client.get("/health")).status_code == 200
        assert (await client.head("/health/live")).status_code == 200
        assert "x-request-id" in (await client.get("/nowhere")).headers
        page = (await client.get("/schema")).text
    assert "/v1/chat/completions" in page
    assert "<script" not in page
