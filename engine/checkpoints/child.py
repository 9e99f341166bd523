"""Runs a program and reports while it works."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.checkpoints.placing import REPORT_S, Say


class Ended(NamedTuple):
    """How a program ended: its exit status, and its output with its errors."""

    status: int
    output: str

    @property
    def last_line(self) -> str:
        """The last line of the output, by which a failed program gives its reason."""
        lines = self.output.strip().splitlines()
        return lines[-1].strip() if lines else f"no output, exit status {self.status}"


def run(
    command: Sequence[str],
    log: Path,
    say: Say,
    progress: Callable[[float], str],
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run a program to its end; every few seconds, `say` gets `progress` of the seconds so far.

    Its output goes to the file `log`. Settings of ours, among them the secrets, are withheld.
    """
    inherited = {n: v for n, v in os.environ.items() if not n.startswith(("LMAAS_", "DATABASE_"))}
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603  no shell, and the program is ours or pip
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**inherited, **(environment or {})},
        )
        try:
            while True:
                try:
                    status = process.wait(REPORT_S)
                    break
                except subprocess.TimeoutExpired:
                    say(progress(time.monotonic() - began))
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    return Ended(status, log.read_text(errors="replace"))
