"""Documents a request body that is not JSON: the handler takes it as `body: bytes`."""

from dataclasses import dataclass
from typing import Final

from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIType

LARGEST_UPLOAD: Final = 16 << 20  # bytes


def raw_body(media_type: str, description: str) -> type[Operation]:
    """An operation whose documented body is of this media type."""
    content = {media_type: OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING))}
    documented = RequestBody(content=content, description=description, required=True)

    @dataclass
    class RawOperation(Operation):
        def __post_init__(self) -> None:
            self.request_body = documented

    return RawOperation
