"""C kernels, compiled once on the machine they run on and kept in the user's cache."""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch

FORMAT_CODES: Final = {torch.float32: 32, torch.float16: 16, torch.bfloat16: -16}  # FORMAT in C
COMPILERS: Final = ("cc", "gcc", "clang")
COMPILER_FLAGS: Final = ("-std=gnu11", "-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC")
COMPILE_TIMEOUT_S: Final = 60.0


class KernelUnavailable(Exception):
    """The kernel cannot be compiled, for this reason; torch is used in its place."""


def load(
    source: Path,
    constants: Mapping[str, int],
    *,
    headers: Sequence[Path] = (),
    flags: Sequence[str] = (),
) -> ctypes.CDLL:
    """Compile a C file with these constants and load it. KernelUnavailable with a reason.

    `headers`: the files next to it that it includes. `flags` are added to the usual ones.
    """
    compiler = shlex.split(os.environ.get("CC", "")) or [*filter(shutil.which, COMPILERS)][:1]
    if not compiler:
        raise KernelUnavailable(f"none of {', '.join(COMPILERS)} is installed")
    options = [*COMPILER_FLAGS, *flags, *(f"-D{name}={value}" for name, value in constants.items())]
    try:
        digest = hashlib.sha256()
        files = [file.read_bytes() for file in (source, *headers)]
        for part in (" ".join(options).encode(), *files, _machine_id(compiler)):
            digest.update(hashlib.sha256(part).digest())
        library = _cache_folder() / f"{source.stem}-{digest.hexdigest()[:32]}.so"
        if not library.exists():
            _compile(compiler, options, source, library)
        return ctypes.CDLL(str(library))
    except subprocess.CalledProcessError as error:
        raise KernelUnavailable(f"{compiler[0]} says: {_error_line(error.stderr)}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelUnavailable(str(error)) from error


def _compile(compiler: list[str], options: list[str], source: Path, library: Path) -> None:
    """Put the library in place atomically, so that no process loads a partial one."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        object_file, linked = Path(folder, "kernel.o"), Path(folder, "kernel.so")
        _run([*compiler, *options, "-c", str(source), "-o", str(object_file)])
        # Link without -ffast-math: it would flush denormals in the whole process.
        _run([*compiler, "-shared", "-fopenmp", str(object_file), "-o", str(linked), "-lm"])
        linked.replace(library)


def _run(command: list[str]) -> str:
    done = subprocess.run(  # noqa: S603 - the machine's own compiler
        command, check=True, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S
    )
    return done.stdout


def _machine_id(compiler: list[str]) -> bytes:
    """What `-march=native` depends on: compiler version and processor."""
    processor = Path("/proc/cpuinfo")
    text = processor.read_text().partition("\n\n")[0] if processor.exists() else ""
    kept = [line for line in text.splitlines() if line.startswith(("model name", "flags"))]
    return "\n".join([_run([*compiler, "--version"]), *kept]).encode()


def _cache_folder() -> Path:
    """The user's kernel cache; a new private folder if that is not writable."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base, "lmaas", "kernels")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="lmaas-kernels-"))
    if not os.access(folder, os.W_OK) or folder.stat().st_uid != os.getuid():
        return Path(tempfile.mkdtemp(prefix="lmaas-kernels-"))
    return folder


def _error_line(text: str) -> str:
    return next((line for line in text.splitlines() if "error" in line), text.strip()[:200])
