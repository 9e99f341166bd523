"""A client of the admin API for the command line."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Self

import httpx

from gateway.cli.admin.server import Server
from gateway.errors import LmaasError

TIMEOUT_S = 30.0
LONG_TIMEOUT_S = 600.0  # for embedding thousands of lines or erasing millions of rows


class AdminClient:
    """The admin API of a gateway. LmaasError with its message if it refuses a call."""

    def __init__(
        self, url: str, key: str, *, unreachable_hint: str = "", refused_hint: str = ""
    ) -> None:
        """The hints complete the messages for a gateway that does not answer or a wrong key."""
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=TIMEOUT_S
        )
        self._url = url
        self._unreachable_hint = unreachable_hint
        self._refused_hint = refused_hint

    @classmethod
    def of(cls, server: Server) -> Self:
        """The admin API of the gateway that was found."""
        return cls(
            server.url,
            server.key,
            unreachable_hint=server.unreachable_hint,
            refused_hint=server.refused_hint,
        )

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """The answer to a GET."""
        return self._call("GET", path, params=query)

    def post(self, path: str, **body: Any) -> Any:
        """The answer to a POST."""
        return self._call("POST", path, json=body)

    def put(self, path: str, **body: Any) -> Any:
        """The answer to a PUT."""
        return self._call("PUT", path, json=body)

    def patch(self, path: str, **body: Any) -> Any:
        """The answer to a PATCH."""
        return self._call("PATCH", path, json=body)

    def delete(self, path: str, **query: Any) -> Any:
        """The answer to a DELETE."""
        return self._call("DELETE", path, params=query, timeout=LONG_TIMEOUT_S)

    def send(self, path: str, body: bytes, media_type: str) -> Any:
        """The answer to a POST of bytes, which may take minutes."""
        headers = {"content-type": media_type}
        return self._call("POST", path, content=body, headers=headers, timeout=LONG_TIMEOUT_S)

    def fetch(self, path: str) -> bytes:
        """The body of a GET's response."""
        return self._send("GET", path).content

    def all(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """Every item of a list, from all its pages."""
        query["limit"] = 100
        while True:
            page = self.get(path, **query)
            yield from page["data"]
            if not page["has_more"]:
                return
            query["after"] = page["data"][-1]["id"]

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        return self._json(self._send(method, path, **arguments))

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise LmaasError(
                f"cannot reach {self._url}: {error}{self._unreachable_hint}"
            ) from error
        if response.status_code >= HTTPStatus.BAD_REQUEST:
            reason = _reason(self._json(response), response.status_code)
            if response.status_code == HTTPStatus.UNAUTHORIZED:
                reason += self._refused_hint
            raise LmaasError(reason)
        return response

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
