"""A client of `/v1/files` and `/v1/batches` for the command line."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import click
import httpx

from gateway.cli.admin.server import find_url
from gateway.errors import LmaasError, StartupFailure
from gateway.settings import read_settings
from gateway.tenancy.demo import api_key_file
from gateway.tenancy.secret_file import read_secret

TIMEOUT_S: Final = 60.0
UPLOAD_TIMEOUT_S: Final = 600.0


def client_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options `--url` and `--key` of a command that calls a gateway as an app."""
    url = click.option(
        "--url",
        help="The gateway's address. Default: LMAAS_URL, else LMAAS_HOST and LMAAS_PORT, else the "
        "gateway that runs with the data folder.",
    )
    key = click.option(
        "--key", help="An API key. Default: LMAAS_API_KEY, else <data folder>/api_key."
    )
    return url(key(command))


class BatchClient:
    """The batches of a tenant. LmaasError with the gateway's message if it refuses a call."""

    def __init__(self, url: str, key: str, hint: str = "") -> None:
        """`hint` completes the message for a gateway that does not answer."""
        headers = {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=f"{url}/v1", headers=headers, timeout=TIMEOUT_S)
        self._url = url
        self._hint = hint

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def upload(self, path: Path) -> str:
        """The id of a new input file with these lines."""
        with path.open("rb") as lines:
            answer = self._call(
                "POST",
                "/files",
                data={"purpose": "batch"},
                files={"file": (path.name, lines, "application/jsonl")},
                timeout=UPLOAD_TIMEOUT_S,
            )
        return str(answer["id"])

    def create(self, file_id: str, endpoint: str, window: str, metadata: Mapping[str, str]) -> Any:
        """A new batch."""
        body = {
            "input_file_id": file_id,
            "endpoint": endpoint,
            "completion_window": window,
            "metadata": dict(metadata) or None,
        }
        return self._call("POST", "/batches", json=body)

    def show(self, batch_id: str) -> Any:
        """A batch."""
        return self._call("GET", f"/batches/{batch_id}")

    def cancel(self, batch_id: str) -> Any:
        """The batch, which is going to be cancelled."""
        return self._call("POST", f"/batches/{batch_id}/cancel")

    @contextmanager
    def content(self, file_id: str) -> Iterator[Iterator[bytes]]:
        """A file's bytes, in pieces as they come."""
        with (
            self._reached(),
            self._http.stream("GET", f"/files/{file_id}/content") as response,
        ):
            if response.status_code >= HTTPStatus.BAD_REQUEST:
                response.read()
                raise LmaasError(_reason(response))
            yield response.iter_bytes()

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        with self._reached():
            response = self._http.request(method, path, **arguments)
        if response.status_code >= HTTPStatus.BAD_REQUEST:
            raise LmaasError(_reason(response))
        return response.json()

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise LmaasError(f"cannot reach {self._url}: {error}{self._hint}") from error


def batch_client(
    url: str | None, key: str | None, environment: Mapping[str, str] = os.environ
) -> BatchClient:
    """The client of the gateway that is found. StartupFailure if there is no API key."""
    settings = read_settings(environment)
    found, hint = find_url(url or settings.url, settings, environment)
    file = api_key_file(settings.data_folder)
    secret = key or settings.api_key or read_secret(file)
    if secret is None:
        raise StartupFailure(f"no API key: give --key or LMAAS_API_KEY ({file} does not exist)")
    return BatchClient(found, secret, hint)


def _reason(response: httpx.Response) -> str:
    try:
        answer = response.json()
    except ValueError:
        answer = None
    match answer:
        case {"error": {"message": str(message)}}:
            return message
    return f"the response is HTTP {response.status_code}"
