"""HTTP to one server: short requests with a deadline, and streams of server-sent events."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import msgspec

from gateway.engines.upstream.failures import (
    RequestRefused,
    ServerBusy,
    ServerDenied,
    ServerUnreachable,
    StreamBroken,
)

CONNECT_S: Final = 5.0
WRITE_S: Final = 30.0
ANSWER_S: Final = 10.0  # of a short request
MAX_ANSWER_BYTES: Final = 8 << 20
MAX_ERROR_BYTES: Final = 1 << 16
MAX_LINE_BYTES: Final = 1 << 18
BYTES_PER_PROMPT_TOKEN: Final = 16  # vLLM's first event repeats the prompt
MAX_MESSAGE: Final = 500
DATA: Final = b"data:"
DONE: Final = b"[DONE]"
OK: Final = 200
BUSY: Final = (429, 503)  # 503 only where it says when to come again
DENIED: Final = (401, 403, 404)


class _Message(msgspec.Struct):
    message: str = ""


class _ErrorBody(msgspec.Struct):
    """The error of an answer, as OpenAI, llama.cpp and older vLLM write it."""

    error: _Message | str | None = None
    message: str = ""


class UpstreamServer:
    """A server at a base URL, with or without `/v1` at its end."""

    def __init__(self, url: str, key: str | None, *, connections: int) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        headers = {"Accept-Encoding": "identity"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx.AsyncClient(
            base_url=self.url,
            headers=headers,
            timeout=httpx.Timeout(None, connect=CONNECT_S, write=WRITE_S),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def fetch(
        self, path: str, body: Mapping[str, Any] | None = None, *, within_s: float = ANSWER_S
    ) -> tuple[int, bytes]:
        """Status and body of a GET, or of a POST with a JSON body. ServerUnreachable."""
        method = "GET" if body is None else "POST"
        request = self._request(method, path, body)
        request.extensions["timeout"] = httpx.Timeout(within_s, connect=CONNECT_S).as_dict()
        try:
            response = await self._client.send(request, stream=True)
            try:
                content = bytearray()
                async for part in response.aiter_bytes():
                    content += part
                    if len(content) > MAX_ANSWER_BYTES:
                        raise ServerUnreachable(f"{path}: more than {MAX_ANSWER_BYTES} bytes")
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        return response.status_code, bytes(content)

    @asynccontextmanager
    async def events(
        self,
        path: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        prompt_tokens: int,
    ) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        """The data of a stream's events; leaving the context aborts what is not complete.

        ServerBusy, ServerDenied, RequestRefused or StreamBroken instead of a stream; StreamBroken
        also if it breaks later, or a line is too long.
        """
        most = MAX_LINE_BYTES + BYTES_PER_PROMPT_TOKEN * prompt_tokens
        request = self._request("POST", path, body, headers)
        try:
            response = await self._client.send(request, stream=True)
            try:
                if response.status_code != OK:
                    raise _failure(response, await _limited(response))
                yield _events(response, most)
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise StreamBroken(str(_unreachable(error)), connection=True) from error

    def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Request:
        content = None if body is None else msgspec.json.encode(body)
        given = dict(headers or {})
        if content is not None:
            given["Content-Type"] = "application/json"
        return self._client.build_request(method, path, content=content, headers=given)


async def _events(response: httpx.Response, most: int) -> AsyncGenerator[bytes, None]:
    """The data of each event, up to the one that ends the stream."""
    rest = b""
    async for part in response.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n") if rest else part.split(b"\n")
        if len(rest) > most:
            raise StreamBroken(f"the server sent a line of more than {most} bytes")
        for line in lines:
            if line.startswith(DATA):
                data = line[len(DATA) :].strip()
                if data == DONE:
                    return
                yield data


async def _limited(response: httpx.Response) -> bytes:
    """The beginning of an answer."""
    content = b""
    async for part in response.aiter_bytes():
        content += part
        if len(content) > MAX_ERROR_BYTES:
            break
    return content[:MAX_ERROR_BYTES]


def _failure(response: httpx.Response, content: bytes) -> Exception:
    """What an answer that is no stream means."""
    status = response.status_code
    reason = f"status {status}: {message_of(content)}"
    retry_after_s = _seconds(response.headers.get("Retry-After"))
    if status == BUSY[0] or (status in BUSY and "Retry-After" in response.headers):
        return ServerBusy(reason, retry_after_s)
    if status in DENIED:
        return ServerDenied(reason)
    if status < httpx.codes.INTERNAL_SERVER_ERROR and status >= httpx.codes.BAD_REQUEST:
        return RequestRefused(reason)
    return StreamBroken(reason)


def message_of(content: bytes) -> str:
    """The message of an error's body, shortened."""
    try:
        body = msgspec.json.decode(content, type=_ErrorBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = content.decode(errors="replace")
    else:
        inner = body.error.message if isinstance(body.error, _Message) else body.error
        text = inner or body.message or content.decode(errors="replace")
    return " ".join(text.split())[:MAX_MESSAGE] or "no reason given"


def _seconds(retry_after: str | None) -> float | None:
    """The seconds of a `Retry-After` header; None for none, or a date."""
    try:
        return None if retry_after is None else max(float(retry_after), 0.0)
    except ValueError:
        return None


def _unreachable(error: httpx.HTTPError) -> ServerUnreachable:
    reason = str(error) or type(error).__name__
    refused = any(isinstance(each, ConnectionRefusedError) for each in _causes(error))
    return ServerUnreachable(reason, refused=refused)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it follows from."""
    yield error
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _causes(each)
    cause = error.__cause__ or error.__context__
    if cause is not None:
        yield from _causes(cause)
