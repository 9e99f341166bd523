"""Finds the gateway that the command line manages, and the key of its admin API."""

import os
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from gateway.cli.gateway_client import gateway_options
from gateway.errors import StartupFailure
from gateway.server_file import running_server, server_url
from gateway.settings import Settings, read_settings
from gateway.tenancy.admin_key import admin_key_file
from gateway.tenancy.secret_file import read_secret


class Server(Struct, frozen=True):
    """A gateway's address and admin key; the hints complete the messages of failing calls."""

    url: str
    key: str
    unreachable_hint: str = ""
    refused_hint: str = ""


server_options = gateway_options(
    "The admin key. Default: LMAAS_ADMIN_KEY, else <data folder>/admin_key."
)


def find_server(
    url: str | None, key: str | None, environment: Mapping[str, str] = os.environ
) -> Server:
    """The gateway to call. StartupFailure if there is no address or no key.

    The address is the given one, else LMAAS_URL, else that of LMAAS_PORT and LMAAS_HOST, else the
    one that the gateway of the data folder has announced there. The key is the given one, else
    LMAAS_ADMIN_KEY, else the one that the gateway keeps in its data folder.
    """
    settings = read_settings(environment)
    found, hint = find_url(url or settings.url, settings, environment)
    secret, source = _key(key, found, settings, hint)
    return Server(found, secret, hint, f"; it came from {source}")


def find_url(
    given: str | None, settings: Settings, environment: Mapping[str, str]
) -> tuple[str, str]:
    """The address, and what to add if no gateway answers there."""
    if given is not None:
        return given.rstrip("/"), ""
    if environment.get("LMAAS_PORT") and settings.port:
        return server_url(settings.host, settings.port), ""
    running = running_server(settings.data_folder)
    if running is not None:
        return running.url, ""
    hint = (
        f"no gateway runs with the data folder {settings.data_folder}; start one (lmaas serve), or "
        "give --url, LMAAS_URL or LMAAS_DATA_DIR"
    )
    if not settings.port:
        raise StartupFailure(hint)
    return server_url(settings.host, settings.port), f"; {hint}"


def _key(given: str | None, url: str, settings: Settings, hint: str) -> tuple[str, str]:
    """The admin key and where it came from. A kept key is for this machine's gateway alone."""
    if given:
        return given, "--key"
    if settings.admin_key:
        return settings.admin_key, "LMAAS_ADMIN_KEY"
    path = admin_key_file(Path(settings.data_dir))
    if not is_local(url, settings):
        raise StartupFailure(
            f"no admin key: give --key or LMAAS_ADMIN_KEY ({path} is not sent to another machine)"
        )
    try:
        kept = read_secret(path)
    except StartupFailure as error:
        raise StartupFailure(
            f"no admin key: give --key or LMAAS_ADMIN_KEY ({error}){hint}"
        ) from error
    if kept is None:
        raise StartupFailure(f"no admin key: give --key or LMAAS_ADMIN_KEY ({path} has none){hint}")
    return kept, str(path)


def is_local(url: str, settings: Settings) -> bool:
    """Whether an address is this machine's."""
    host = urlsplit(url).hostname or ""
    if host in {"localhost", settings.host}:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
