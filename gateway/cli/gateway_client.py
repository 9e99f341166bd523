"""Calls of a gateway's APIs from the command line: options, errors, and the connection."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import click
import httpx

from gateway.errors import LmaasError


def gateway_options(key_help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options `--url` and `--key` of a command that calls a gateway."""
    url = click.option(
        "--url",
        help="The gateway's address. Default: LMAAS_URL, else LMAAS_HOST and LMAAS_PORT, else the "
        "gateway that runs with the data folder.",
    )
    key = click.option("--key", help=key_help)
    return lambda command: url(key(command))


class GatewayClient:
    """A connection to a gateway. LmaasError with the gateway's message if it refuses a call."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout_s: float,
        unreachable_hint: str = "",
        refused_hint: str = "",
    ) -> None:
        """The hints complete the messages for a gateway that does not answer or a wrong key."""
        headers = {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)
        self._url = url
        self._unreachable_hint = unreachable_hint
        self._refused_hint = refused_hint

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        """The JSON of a response."""
        return self._json(self._send(method, path, **arguments))

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """A response that is no error."""
        with self._reached():
            response = self._http.request(method, path, **arguments)
        self._check(response)
        return response

    @contextmanager
    def _stream(self, path: str) -> Iterator[Iterator[bytes]]:
        """The body of a GET's response, in pieces as they come."""
        with self._reached(), self._http.stream("GET", path) as response:
            if response.status_code >= HTTPStatus.BAD_REQUEST:
                response.read()
            self._check(response)
            yield response.iter_bytes()

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise LmaasError(
                f"cannot reach {self._url}: {error}{self._unreachable_hint}"
            ) from error

    def _check(self, response: httpx.Response) -> None:
        """LmaasError with the reason of an error."""
        if response.status_code < HTTPStatus.BAD_REQUEST:
            return
        reason = _reason(self._json(response), response.status_code)
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            reason += self._refused_hint
        raise LmaasError(reason)

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise LmaasError(
                f"{self._url} is not an LMaaS gateway: its response is no JSON"
            ) from error


def _reason(answer: Any, status: int) -> str:
    match answer:
        case {"error": {"message": str(message)}}:
            return message
    return f"the response is HTTP {status}"
