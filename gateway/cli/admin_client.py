"""Calls of the admin API, for the command line."""

import os
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from gateway.errors import LmaasError, StartupFailure
from gateway.settings import Settings
from gateway.tenancy.admin_key import admin_key_file

TIMEOUT_S = 30.0


class AdminClient:
    """The admin API at `url`. LmaasError with the server's words if it refuses."""

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

    def delete(self, path: str) -> Any:
        """The answer to a DELETE."""
        return self._call("DELETE", path)

    def all(self, path: str) -> Iterator[dict[str, Any]]:
        """Every item of a list, page after page."""
        query: dict[str, Any] = {"limit": 100}
        while True:
            page = self.get(path, **query)
            yield from page["data"]
            if not page["has_more"]:
                return
            query["after"] = page["data"][-1]["id"]

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            response = self._http.request(method, path, **arguments)
            answer = response.json()
        except httpx.HTTPError as error:
            raise LmaasError(f"cannot reach {self._url}: {error}") from error
        except ValueError as error:
            raise LmaasError(f"{self._url} does not answer like an LMaaS gateway") from error
        if response.status_code >= HTTPStatus.BAD_REQUEST:
            raise LmaasError(_reason(answer, response.status_code))
        return answer


def _reason(answer: Any, status: int) -> str:
    match answer:
        case {"error": {"message": str(message)}}:
            return message
    return f"the answer is HTTP {status}"


def _key() -> str:
    """The admin key of the environment, else of the data folder."""
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
