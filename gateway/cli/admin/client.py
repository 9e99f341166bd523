"""A client of the admin API for the command line."""

import json
import os
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import click
import httpx

from gateway.errors import LmaasError, StartupFailure
from gateway.settings import Settings
from gateway.tenancy.admin_key import admin_key_file

TIMEOUT_S = 30.0
LONG_TIMEOUT_S = 600.0  # for embedding thousands of lines or erasing millions of rows


class AdminClient:
    """The admin API at `url`. LmaasError with the server's message if it refuses a call."""

    def __init__(self, url: str, key: str | None) -> None:
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key or _key()}"},
            timeout=TIMEOUT_S,
        )
        self._url = url

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

    def all(self, path: str) -> Iterator[dict[str, Any]]:
        """Every item of a list, from all its pages."""
        query: dict[str, Any] = {"limit": 100}
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
            raise LmaasError(f"cannot reach {self._url}: {error}") from error
        if response.status_code >= HTTPStatus.BAD_REQUEST:
            raise LmaasError(_reason(self._json(response), response.status_code))
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


def _key() -> str:
    """The admin key from the environment, else from the data folder. StartupFailure if none."""
    given = os.environ.get("LMAAS_ADMIN_KEY")
    if given:
        return given
    default = Settings().data_dir
    path = admin_key_file(Path(os.environ.get("LMAAS_DATA_DIR") or default))
    try:
        return path.read_text().strip()
    except OSError as error:
        raise StartupFailure(
            f"no admin key: give --key or LMAAS_ADMIN_KEY ({path}: {error.strerror})"
        ) from error


pass_client = click.make_pass_decorator(AdminClient)


def show(item: dict[str, Any]) -> None:
    """Print an object as JSON."""
    click.echo(json.dumps(item, ensure_ascii=False, indent=2))


def show_all(items: Iterable[dict[str, Any]]) -> None:
    """Print objects as JSON, one per line."""
    for item in items:
        click.echo(json.dumps(item, ensure_ascii=False))
