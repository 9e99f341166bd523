"""The machine and the commit of a measurement."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Final

import psutil

from benchmarks.harness.paths import ROOT

INSTRUCTION_SETS: Final = (
    "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"
)  # fmt: skip


def machine() -> str:
    """Processor, cores available to this process, memory and system, in one line."""
    cores = len(os.sched_getaffinity(0))
    memory_gib = psutil.virtual_memory().total / 2**30
    return f"{_processor()}, {cores} cores, {memory_gib:.0f} GiB, {platform.system()}"


def instruction_sets() -> str:
    """The processor's vector instruction sets that matter to matrix products."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            present = set(line.partition(":")[2].split())
            return " ".join(name for name in INSTRUCTION_SETS if name in present)
    return platform.machine()


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
