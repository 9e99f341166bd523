"""Makes the client of the server that the settings name."""

from typing import Final, cast

from gateway.engines.upstream.client import UpstreamEngine
from gateway.engines.upstream.hints import Hint
from gateway.engines.upstream.local_model import LocalModel
from gateway.engines.upstream.server import UpstreamServer
from gateway.settings import Settings

CONNECTIONS: Final = 4096  # more than run at once


def upstream_server(settings: Settings, url: str) -> UpstreamServer:
    """The server at this address, with the settings' key."""
    return UpstreamServer(url, settings.upstream_api_key, connections=CONNECTIONS)


def upstream_engine(settings: Settings, url: str, model: LocalModel) -> UpstreamEngine:
    """The client of the server at this address, which runs this model."""
    hints = [hint for hint in settings.upstream_hints.split(",") if hint]
    return UpstreamEngine(
        upstream_server(settings, url),
        model,
        wanted=settings.upstream_model,
        max_running=settings.upstream_max_running or None,
        silence_s=settings.upstream_silence_s,
        hints=frozenset(cast("list[Hint]", hints)),
    )
