"""`python -m engine`: one engine process, configured by environment variables."""

import os
import signal
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Final

import msgspec

from engine.address import Address
from engine.checkpoints.resolve import resolve
from engine.errors import StartupFailure
from engine.service.logs import configure_logs
from engine.service.startup import Startup
from engine.service.supervision import end_with_supervisor
from engine.settings import Settings, read_settings

# torch and oneDNN each keep what they compiled for a number of rows. Their own limits, 1,024 matrix
# products, take up to 1 GB; at these, oneDNN compiles more often.
CACHE_LIMITS: Final = {"LRU_CACHE_CAPACITY": "32", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256"}

EXIT_STARTUP_FAILED = 2  # exit code when a setting, the model or the socket prevents the start


def main() -> int:
    """Run the engine and return its exit code. A failed start prints one line on stderr."""
    parser = ArgumentParser(prog="python -m engine", description=__doc__)
    parser.add_argument("--supervised", action="store_true", help="exit at the end of stdin")
    supervised = parser.parse_args().supervised
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(os.EX_OK))
    try:
        settings = read_settings()
        configure_logs(settings.log_level)
        address = Address(settings.engine_socket)
        if supervised:
            end_with_supervisor(address)
        startup = Startup(address)
        try:
            return _start(settings, startup)
        finally:
            startup.close()
    except StartupFailure as failure:
        print(f"engine: {failure}", file=sys.stderr)  # noqa: T201 - the one line of a failed start
        return EXIT_STARTUP_FAILED


def _start(settings: Settings, startup: Startup) -> int:
    """Prepare the model, import torch, and serve; the exit code at the end."""
    folder = Path(settings.data_dir).expanduser().absolute()
    model = resolve(settings.model, folder, startup.enter)
    startup.enter("importing torch")
    for name, limit in CACHE_LIMITS.items():
        os.environ.setdefault(name, limit)
    from engine.service.process import serve  # noqa: PLC0415 - takes seconds

    return serve(msgspec.structs.replace(settings, model=model.location), startup)


if __name__ == "__main__":
    sys.exit(main())
