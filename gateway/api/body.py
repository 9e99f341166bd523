"""Request bodies: bounded in bytes and JSON values before anything is decoded.

The bytes are bounded by the route's `request_max_body_size` or, where it has none, by the present
`BodyLimits`; gzip's output by the same number.
"""

import asyncio
import zlib
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, Self

from litestar import Request
from litestar.exceptions import InternalServerException, SerializationException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.types import Empty
from msgspec import Struct

from gateway.api.json_errors import explain_json_error, other_encoding
from gateway.api.json_values import count_values
from gateway.api.validation import convert_strictly
from gateway.errors import ClientGone, InvalidRequest, RequestTooLarge, UnsupportedMediaType

SMALLEST_LIMIT: Final = 1 << 20  # bytes
BYTES_PER_TOKEN: Final = 32  # of context: a token of text is 4 bytes, its JSON escapes at most 24
GZIP_PIECE: Final = 64 << 10  # bytes of output between two turns of the event loop
IGNORED: Final = "ignored"  # key in the request's state: names of the fields without effect
_GZIP: Final = zlib.MAX_WBITS | 16


class BodyLimits(Struct, frozen=True):
    """The largest body in bytes, and in JSON keys and values."""

    size: int = SMALLEST_LIMIT
    values: int = 20_000

    @classmethod
    def of(cls, context_tokens: int, max_values: int) -> Self:
        """The limits for a model with this context; it may raise `max_values`."""
        return cls(
            size=max(SMALLEST_LIMIT, BYTES_PER_TOKEN * context_tokens),
            values=max(max_values, context_tokens),
        )


class ScreenedBody(Struct):
    """A body that checks which fields were sent before they are converted."""

    @classmethod
    def screen(cls, body: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The fields to convert, and the names of those that are ignored.

        UnsupportedParameter names a field that is not accepted.
        """
        raise NotImplementedError


class BoundedRequest(Request[Any, Any, Any]):
    """A request whose body is read and whose JSON is decoded only within `limits`.

    What is decoded is converted to the handler's type by the rule of `gateway.api.validation`.
    """

    @staticmethod
    def limits() -> BodyLimits:
        """The present limits, for routes without one of their own."""
        return BodyLimits()

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The body's bytes, decompressed. RequestTooLarge over the limit."""
        most = self.route_handler.resolve_request_max_body_size() or self.limits().size
        received = super().stream()
        if self._body is Empty:
            if (self.content_length or 0) > most:
                raise _too_large(most)
            received = _bounded(received, most)
            if self._gzipped():
                received = _decompressed(received, most)
        try:
            async for piece in received:
                yield piece
        except RequestEntityTooLarge as error:
            raise _too_large(most) from error
        except InternalServerException as error:  # raised for nothing else
            raise ClientGone("the client went away before its body was complete") from error

    def _gzipped(self) -> bool:
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "", "gzip", "x-gzip"):
            raise UnsupportedMediaType(
                f"Content-Encoding {encoding[:40]!r} is not accepted; accepted are gzip and none"
            )
        return encoding.endswith("gzip")

    async def json(self) -> Any:
        """The decoded body, of the type of the handler's `data`.

        RequestTooLarge for too many values, InvalidRequest says what is wrong.

        `json` and not `body` counts, because what is decoded here is JSON whatever its type says.
        """
        body, most = await self.body(), self.limits().values
        values = await count_values(body, most)
        if values > most:
            raise RequestTooLarge(
                f"the body has {values} JSON keys and values; at most {most} are accepted"
            )
        if reason := other_encoding(body):
            raise InvalidRequest(reason)
        try:
            decoded = await super().json()
        except (SerializationException, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequest(explain_json_error(body, error)) from error
        return self._converted(decoded)

    def _converted(self, decoded: Any) -> Any:
        """The body as the handler declares it: the framework's own conversion is not strict."""
        declared = self.route_handler.parsed_fn_signature.parameters.get("data")
        if declared is None:
            return decoded
        kind = declared.annotation
        if isinstance(kind, type) and issubclass(kind, ScreenedBody) and isinstance(decoded, dict):
            decoded, self.state[IGNORED] = kind.screen(decoded)
        return convert_strictly(decoded, kind)


def bounded_request(limits: Callable[[], BodyLimits]) -> type[BoundedRequest]:
    """The request class of an application whose bodies are bounded by the present limits."""

    class AppRequest(BoundedRequest):
        @staticmethod
        def limits() -> BodyLimits:
            return limits()

    return AppRequest


def _too_large(most: int) -> RequestTooLarge:
    return RequestTooLarge(f"the body is larger than {most} bytes")


async def _bounded(received: AsyncGenerator[bytes, None], most: int) -> AsyncGenerator[bytes, None]:
    """The same bytes. RequestTooLarge as soon as they are more than `most`."""
    size = 0
    async for piece in received:
        size += len(piece)
        if size > most:
            raise _too_large(most)
        yield piece


async def _decompressed(
    received: AsyncGenerator[bytes, None], most: int
) -> AsyncGenerator[bytes, None]:
    """What one gzip member holds. RequestTooLarge as soon as it is larger than `most` bytes.

    One member only: each costs a decompressor, and a megabyte has room for 50,000 empty ones.
    """
    gzip, size = zlib.decompressobj(_GZIP), 0
    async for piece in received:
        pending = piece
        while pending:
            if gzip.eof:
                raise InvalidRequest("the gzip body goes on after its end; send one member")
            try:
                plain = gzip.decompress(pending, GZIP_PIECE)
            except zlib.error as error:
                raise InvalidRequest(
                    "the body is not gzip, as its Content-Encoding says"
                ) from error
            size += len(plain)
            if size > most:
                raise RequestTooLarge(f"the decompressed body is larger than {most} bytes")
            yield plain
            await asyncio.sleep(0)
            pending = gzip.unconsumed_tail or gzip.unused_data
    if not gzip.eof:
        raise InvalidRequest("the gzip body is cut off before its end")
