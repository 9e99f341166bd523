"""A gateway in front of a server."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.harness.upstream_servers import READY_S, Server

READY: Final = re.compile(r"ready on (http://\S+)")
KEY: Final = "sk-lmaas-tests-of-upstreams"
ADMIN_KEY: Final = "sk-lmaas-admin-of-upstreams"


@contextmanager
def gateway(server: Server, model: Path, folder: Path) -> Iterator[str]:
    """A gateway in front of a server; its address."""
    ours = {name: text for name, text in os.environ.items() if not name.startswith("LMAAS_")}
    settings = {
        "LMAAS_DATA_DIR": str(folder),
        "LMAAS_PORT": "0",
        "LMAAS_API_KEY": KEY,
        "LMAAS_ADMIN_KEY": ADMIN_KEY,
        "LMAAS_MODEL": str(model),
        "LMAAS_MODEL_NAME": "smollm2",
        "LMAAS_EMBEDDER": "off",
        "LMAAS_UPSTREAM": server.url,
        "LMAAS_MAX_ENGINE_OUTAGE_S": "600",
        "LMAAS_STOP_DELAY_S": "0",
    }
    folder.mkdir()
    log = folder / "log"
    with (
        log.open("w") as written,
        subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve"],
            env=ours | settings,
            stdout=written,
            stderr=written,
        ) as process,
    ):
        try:
            end_s = time.monotonic() + READY_S
            while not (found := READY.search(log.read_text())):
                if process.poll() is not None or time.monotonic() > end_s:
                    raise RuntimeError(f"the gateway did not start: {log.read_text()[-2000:]}")
                time.sleep(0.1)
            yield found[1]
        finally:
            process.terminate()
