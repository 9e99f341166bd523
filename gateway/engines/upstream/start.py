"""Makes the clients of the servers that the settings name."""

import re
from typing import Final, NamedTuple, cast

from gateway.engines.upstream.client import UpstreamEngine
from gateway.engines.upstream.hints import Hint
from gateway.engines.upstream.local_model import LocalModel
from gateway.engines.upstream.server import UpstreamServer
from gateway.errors import StartupFailure
from gateway.settings import Settings

CONNECTIONS: Final = 4096  # more than run at once
VISIBLE: Final = re.compile(r"[\x21-\x7e]+")  # what a header with a key may have
SEPARATOR: Final = re.compile(r"[\s,]+")


class Upstream(NamedTuple):
    """The address of a server, and the key that it asks for, if any."""

    url: str
    key: str | None


def upstreams(settings: Settings) -> list[Upstream]:
    """The servers of the settings; none if they name none. StartupFailure.

    One key is for all servers; as many as servers are for each its own. The key of a single server
    may have commas in it.
    """
    urls = SEPARATOR.split((settings.upstream or "").strip())
    given = (settings.upstream_api_key or "").strip() or None
    if urls == [""]:
        return []
    if given is not None and not all(VISIBLE.fullmatch(part) for part in given.split()):
        raise StartupFailure(
            "LMAAS_UPSTREAM_API_KEY has a character that a key cannot have; accepted are visible "
            "characters of ASCII"
        )
    twice = [url for place, url in enumerate(urls) if _plain(url) in map(_plain, urls[:place])]
    if twice:
        raise StartupFailure(f"LMAAS_UPSTREAM names {twice[0]} twice")
    if given is None or len(urls) == 1 or "," not in given:
        return [Upstream(url, given) for url in urls]
    keys = [key.strip() for key in given.split(",")]
    if len(keys) != len(urls):
        raise StartupFailure(
            f"LMAAS_UPSTREAM_API_KEY has {len(keys)} keys, and LMAAS_UPSTREAM {len(urls)} servers; "
            "accepted are one key, or one for each server"
        )
    return [Upstream(url, key or None) for url, key in zip(urls, keys, strict=True)]


def upstream_server(upstream: Upstream) -> UpstreamServer:
    """The server at this address, with its key."""
    return UpstreamServer(upstream.url, upstream.key, connections=CONNECTIONS)


def upstream_engine(settings: Settings, upstream: Upstream, model: LocalModel) -> UpstreamEngine:
    """The client of a server that runs this model."""
    hints = [hint for hint in settings.upstream_hints.split(",") if hint]
    return UpstreamEngine(
        upstream_server(upstream),
        model,
        wanted=settings.upstream_model,
        max_running=settings.upstream_max_running or None,
        silence_s=settings.upstream_silence_s,
        start_s=settings.max_engine_start_s,
        hints=frozenset(cast("list[Hint]", hints)),
        others=len(upstreams(settings)) > 1,
    )


def _plain(url: str) -> str:
    return url.rstrip("/").removesuffix("/v1")
