"""Start environment and end of the gateway's child processes."""

import asyncio
import os
from asyncio.subprocess import Process
from pathlib import Path
from threading import Thread
from typing import Final

from gateway.settings import without_secrets

STDIN: Final = 0
ROOT: Final = Path(__file__).parents[1]
TERMINATION_TIMEOUT_S: Final = 5.0


def child_environment() -> dict[str, str]:
    """The parent's environment without secrets; PYTHONPATH includes our packages."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**without_secrets(os.environ), "PYTHONPATH": os.pathsep.join(paths)}


async def end_child(process: Process) -> None:
    """Close a child's stdin, its signal to exit; kill it after TERMINATION_TIMEOUT_S.

    Returns once the process has exited.
    """
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(TERMINATION_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def end_with_parent() -> None:
    """Exit at once when stdin closes, since the parent has ended."""

    def wait() -> None:
        # Not `sys.stdin`: a thread blocked in it holds a lock that the interpreter's exit needs.
        while os.read(STDIN, 4096):
            pass
        os._exit(2)

    Thread(target=wait, daemon=True).start()
