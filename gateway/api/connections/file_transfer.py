"""The time limits of uploaded files, larger than those of other bodies."""

from typing import Final

from uvicorn._types import HTTPScope

from gateway.api.connections.limits import ConnectionLimits

FILES: Final = "/v1/files"


def body_timeout_s(scope: HTTPScope, limits: ConnectionLimits) -> float:
    """The longest time for a request's body.

    An upload without an API key is answered before its body, which ends the longer time.
    """
    uploads = scope["method"] == "POST" and scope["path"].startswith(FILES)
    return limits.upload_timeout_s if uploads else limits.body_timeout_s
