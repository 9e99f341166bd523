"""A client of `/v1/files` and `/v1/batches` for the command line."""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from gateway.cli.admin.server import find_url, is_local
from gateway.cli.gateway_client import GatewayClient, gateway_options
from gateway.errors import StartupFailure
from gateway.settings import read_settings
from gateway.tenancy.demo import api_key_file
from gateway.tenancy.secret_file import read_secret

TIMEOUT_S: Final = 60.0
UPLOAD_TIMEOUT_S: Final = 600.0


client_options = gateway_options("An API key. Default: LMAAS_API_KEY, else <data folder>/api_key.")


class BatchClient(GatewayClient):
    """The batches of a tenant. LmaasError with the gateway's message if it refuses a call."""

    def __init__(self, url: str, key: str, hint: str = "") -> None:
        """`hint` completes the message for a gateway that does not answer."""
        super().__init__(url, key, timeout_s=TIMEOUT_S, unreachable_hint=hint)

    def upload(self, path: Path) -> str:
        """The id of a new input file with these lines."""
        with path.open("rb") as lines:
            answer = self._call(
                "POST",
                "/v1/files",
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
        return self._call("POST", "/v1/batches", json=body)

    def show(self, batch_id: str) -> Any:
        """A batch."""
        return self._call("GET", f"/v1/batches/{batch_id}")

    def cancel(self, batch_id: str) -> Any:
        """The batch, which is going to be cancelled."""
        return self._call("POST", f"/v1/batches/{batch_id}/cancel")

    def content(self, file_id: str) -> AbstractContextManager[Iterator[bytes]]:
        """A file's bytes, in pieces as they come."""
        return self._stream(f"/v1/files/{file_id}/content")


def batch_client(
    url: str | None, key: str | None, environment: Mapping[str, str] = os.environ
) -> BatchClient:
    """The client of the gateway that is found. StartupFailure if there is no API key.

    A kept key is for this machine's gateway alone.
    """
    settings = read_settings(environment)
    found, hint = find_url(url or settings.url, settings, environment)
    file = api_key_file(settings.data_folder)
    secret = key or settings.api_key
    if not secret and not is_local(found, settings):
        raise StartupFailure(
            f"no API key: give --key or LMAAS_API_KEY ({file} is not sent to another machine)"
        )
    secret = secret or read_secret(file)
    if secret is None:
        raise StartupFailure(f"no API key: give --key or LMAAS_API_KEY ({file} does not exist)")
    return BatchClient(found, secret, hint)
