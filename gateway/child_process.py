"""What the gateway's child processes have in common."""

import asyncio
import os
from asyncio.subprocess import Process
from pathlib import Path
from typing import Final

from gateway.settings import without_secrets

ROOT: Final = Path(__file__).parents[1]
END_S: Final = 5.0


def child_environment() -> dict[str, str]:
    """The environment of a child process: this one's without its secrets, with our packages."""
    found = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**without_secrets(os.environ), "PYTHONPATH": os.pathsep.join(found)}


async def end_child(process: Process) -> None:
    """Close a child's stdin, which tells it to end; kill it if it stays. Waits until it is gone."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(END_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
