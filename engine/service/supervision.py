"""An engine outlives its supervisor by nothing: it ends when the pipe on stdin does."""

import os
from contextlib import suppress
from threading import Thread
from typing import Final

from engine.address import Address

STDIN: Final = 0


def end_with_supervisor(address: Address) -> None:
    """From now on, drop everything and exit as soon as stdin reaches its end."""
    Thread(target=_wait, args=(address,), name="supervision", daemon=True).start()


def _wait(address: Address) -> None:
    with suppress(OSError):  # no stdin at all: there is no supervisor
        while os.read(STDIN, 4096):
            pass
    address.remove()
    os._exit(os.EX_OK)
