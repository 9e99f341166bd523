"""The machine and the commit of a measurement."""

import os
import platform
import subprocess
from pathlib import Path

import psutil

from benchmarks.harness.paths import ROOT


def machine() -> str:
    """Processor, cores available to this process, memory and system, in one line."""
    cores = len(os.sched_getaffinity(0))
    memory_gib = psutil.virtual_memory().total / 2**30
    return f"{_processor()}, {cores} cores, {memory_gib:.0f} GiB, {platform.system()}"


def commit() -> str:
    """The short hash of HEAD, with `+` if tracked files differ from it."""
    head = _git("rev-parse", "--short", "HEAD") or "unknown"
    return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    answer = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return answer.stdout.strip()
