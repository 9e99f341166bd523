"""C kernels compiled on the machine they run on, once, and kept in the user's cache."""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

COMPILERS: Final = ("cc", "gcc", "clang")
FLAGS: Final = ("-std=gnu11", "-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC")
LIMIT_S: Final = 60.0


class NotCompiled(Exception):
    """There is no kernel, for this reason; torch does its work."""


def load(source: Path, constants: Mapping[str, int]) -> ctypes.CDLL:
    """The library of a C file with these constants defined. NotCompiled with one line."""
    compiler = shlex.split(os.environ.get("CC", "")) or [*filter(shutil.which, COMPILERS)][:1]
    if not compiler:
        raise NotCompiled(f"none of {', '.join(COMPILERS)} is installed")
    options = [*FLAGS, *(f"-D{name}={value}" for name, value in constants.items())]
    try:
        digest = hashlib.sha256()
        for part in (" ".join(options).encode(), source.read_bytes(), _machine(compiler)):
            digest.update(hashlib.sha256(part).digest())
        library = _cache() / f"{source.stem}-{digest.hexdigest()[:32]}.so"
        if not library.exists():
            _compile(compiler, options, source, library)
        return ctypes.CDLL(str(library))
    except subprocess.CalledProcessError as error:
        raise NotCompiled(f"{compiler[0]} says: {_first_line(error.stderr)}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotCompiled(str(error)) from error


def _compile(compiler: list[str], options: list[str], source: Path, library: Path) -> None:
    """Put the library in its place at once, so that nobody loads half of one."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        code, made = Path(folder, "kernel.o"), Path(folder, "kernel.so")
        _run([*compiler, *options, "-c", str(source), "-o", str(code)])
        # Linked without -ffast-math, which would let all of the process flush denormals.
        _run([*compiler, "-shared", "-fopenmp", str(code), "-o", str(made), "-lm"])
        made.replace(library)


def _run(command: list[str]) -> str:
    done = subprocess.run(  # noqa: S603 - the compiler that the machine has
        command, check=True, capture_output=True, text=True, timeout=LIMIT_S
    )
    return done.stdout


def _machine(compiler: list[str]) -> bytes:
    """What `-march=native` means here: the compiler and the processor."""
    processor = Path("/proc/cpuinfo")
    text = processor.read_text().partition("\n\n")[0] if processor.exists() else ""
    kept = [line for line in text.splitlines() if line.startswith(("model name", "flags"))]
    return "\n".join([_run([*compiler, "--version"]), *kept]).encode()


def _cache() -> Path:
    """The user's own folder for kernels; a fresh private one where that cannot be written."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base, "lmaas", "kernels")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="lmaas-kernels-"))
    if not os.access(folder, os.W_OK) or folder.stat().st_uid != os.getuid():
        return Path(tempfile.mkdtemp(prefix="lmaas-kernels-"))
    return folder


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if "error" in line), text.strip()[:200])
