"""Loaded by schemathesis: what holds for every response of the gateway, and its line format."""

from typing import Any

import schemathesis


@schemathesis.check
def error_shape(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Errors are OpenAI's, repeat little of the input, and each response names its request."""
    del ctx
    assert response.headers.get("x-request-id"), "no x-request-id"
    if response.status_code < 400 or case.method == "HEAD":
        return
    if case.path.startswith("/health") and response.status_code == 503:
        return
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"], "no code"
    assert len(error["message"]) < 600
    assert len(error["param"] or "") < 300


@schemathesis.serializer("application/x-ndjson")
def lines(ctx: schemathesis.SerializationContext, value: Any) -> Any:
    del ctx
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")
