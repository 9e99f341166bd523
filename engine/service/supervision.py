"""Ends the engine with its supervisor: when the pipe on stdin closes."""

import os
from contextlib import suppress
from threading import Thread
from typing import Final

from engine.address import Address

STDIN: Final = 0


def end_with_supervisor(address: Address) -> None:
    """Exit at once when stdin reaches its end; checked in a thread."""
    Thread(target=_wait, args=(address,), name="supervision", daemon=True).start()


def _wait(address: Address) -> None:
    with suppress(OSError):  # stdin is closed: there is no supervisor
        while os.read(STDIN, 4096):
            pass
    address.remove()
    os._exit(os.EX_OK)
