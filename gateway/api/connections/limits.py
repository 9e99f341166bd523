"""The bounds of a connection."""

from typing import Self

from msgspec import Struct

from gateway.settings import Settings


class ConnectionLimits(Struct, frozen=True, kw_only=True):
    """Bounds on what is read from a connection; the defaults are those of the settings.

    `header_bytes` counts the request line and all headers, `header_timeout_s` runs from a request's
    first byte (on a new connection from its opening) to the end of the headers, and
    `body_timeout_s` from there to the end of the body, or `upload_timeout_s` if it is a file.
    A client that reads a file must read on within `body_timeout_s`.
    """

    header_bytes: int = 64 << 10
    headers: int = 100
    header_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    upload_timeout_s: float = 600.0
    connections: int = 1000

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The bounds that an operator set."""
        return cls(
            header_bytes=settings.max_header_bytes,
            headers=settings.max_headers,
            header_timeout_s=settings.header_timeout_s,
            body_timeout_s=settings.body_timeout_s,
            upload_timeout_s=settings.upload_timeout_s,
            connections=settings.max_connections,
        )
