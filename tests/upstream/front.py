"""A gateway in front of one or several servers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.harness.upstream_servers import Server
from tests.gateway_process import gateway_process

KEY: Final = "sk-lmaas-tests-of-upstreams"
ADMIN_KEY: Final = "sk-lmaas-admin-of-upstreams"


@contextmanager
def gateway(servers: Sequence[Server], model: Path, folder: Path) -> Iterator[str]:
    """A gateway in front of servers of one model; its address."""
    settings = {
        "LMAAS_API_KEY": KEY,
        "LMAAS_ADMIN_KEY": ADMIN_KEY,
        "LMAAS_MODEL": str(model),
        "LMAAS_MODEL_NAME": "smollm2",
        "LMAAS_UPSTREAM": ",".join(server.url for server in servers),
        "LMAAS_MAX_ENGINE_OUTAGE_S": "600",
        "LMAAS_STOP_DELAY_S": "0",
    }
    with gateway_process(folder, settings) as url:
        yield url
