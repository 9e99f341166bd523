"""A gateway in a process of its own, for checks that run outside of pytest."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

READY: Final = re.compile(r"ready on (http://\S+)")
READY_S: Final = 300.0
SHOWN: Final = 2_000  # characters of the log


@contextmanager
def gateway_process(folder: Path, settings: Mapping[str, str]) -> Iterator[str]:
    """A gateway with exactly these settings and data in the folder; its address.

    SystemExit with the end of its log if it does not start.
    """
    ours = {name: text for name, text in os.environ.items() if not name.startswith("LMAAS_")}
    own = {"LMAAS_DATA_DIR": str(folder), "LMAAS_PORT": "0", "LMAAS_EMBEDDER": "off"}
    folder.mkdir(exist_ok=True)
    log = folder / "log"
    with (
        log.open("w") as written,
        subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve"],
            env={**ours, **own, **settings},
            stdout=written,
            stderr=written,
        ) as process,
    ):
        try:
            yield _address(process, log)
        finally:
            process.terminate()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    until = time.monotonic() + READY_S
    while time.monotonic() < until and process.poll() is None:
        if found := READY.search(log.read_text()):
            return found[1]
        time.sleep(0.1)
    raise SystemExit(f"the gateway did not start:\n{log.read_text()[-SHOWN:]}")
