"""A client of the admin API for the command line."""

from collections.abc import Iterator
from typing import Any, Self

from gateway.cli.admin.server import Server
from gateway.cli.gateway_client import GatewayClient

TIMEOUT_S = 30.0
LONG_TIMEOUT_S = 600.0  # for embedding thousands of lines or erasing millions of rows


class AdminClient(GatewayClient):
    """The admin API of a gateway. LmaasError with its message if it refuses a call."""

    def __init__(
        self, url: str, key: str, *, unreachable_hint: str = "", refused_hint: str = ""
    ) -> None:
        super().__init__(
            url,
            key,
            timeout_s=TIMEOUT_S,
            unreachable_hint=unreachable_hint,
            refused_hint=refused_hint,
        )

    @classmethod
    def of(cls, server: Server) -> Self:
        """The admin API of the gateway that was found."""
        return cls(
            server.url,
            server.key,
            unreachable_hint=server.unreachable_hint,
            refused_hint=server.refused_hint,
        )

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
