"""Child processes of the benchmarks."""

import subprocess
from typing import Any


def end_process(process: subprocess.Popen[Any], within_s: float) -> None:
    """Terminate a process; kill it if it has not ended in this time."""
    process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
