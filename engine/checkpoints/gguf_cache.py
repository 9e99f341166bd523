"""GGUF files converted once, by content: a moved or copied file is not converted again."""

import hashlib
import os
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from engine.checkpoints.catalogue import models_folder
from engine.checkpoints.conversion import check_magic, check_packages, convert
from engine.checkpoints.placing import Say, make_models_folder, place
from engine.errors import ModelUnavailable

HASHES: Final = "gguf-hashes.json"
HASH_LETTERS: Final = 16


class _Seen(Struct):
    """A file as it was when its content was hashed."""

    size: int
    mtime_ns: int
    sha256: str


def converted(file: Path, data_folder: Path, say: Say) -> Path:
    """The folder of the converted file. ModelUnavailable if the file cannot be served."""
    target = conversion_folder(file, data_folder, say)
    if target.is_dir():
        return target
    check_packages()

    def build(workspace: Path) -> Path:
        folder = workspace / "model"
        folder.mkdir()
        convert(file, folder, workspace, say)
        return folder

    place(target, 0, build, say)  # the conversion knows the space that it needs
    return target


def conversion_folder(file: Path, data_folder: Path, say: Say) -> Path:
    """Where the file's conversion is, or will be. ModelUnavailable if it is no GGUF file."""
    check_magic(file)
    models = models_folder(data_folder)
    try:
        make_models_folder(models)
        digest = _digest(file.resolve(), models / HASHES, say)
    except OSError as error:
        raise ModelUnavailable(f"{error.filename or file}: {error.strerror}") from error
    return models / f"gguf-{digest[:HASH_LETTERS]}"


def _digest(file: Path, hashes: Path, say: Say) -> str:
    """The SHA-256 of a file's content; remembered as long as its size and time stay."""
    status = file.stat()
    known = _read(hashes)
    seen = known.get(str(file))
    if seen and (seen.size, seen.mtime_ns) == (status.st_size, status.st_mtime_ns):
        return seen.sha256
    say(f"reading {file.name} ({status.st_size / 1e6:.0f} MB)")
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    known[str(file)] = _Seen(status.st_size, status.st_mtime_ns, digest)
    unfinished = hashes.with_name(f".{hashes.name}.{os.getpid()}")
    unfinished.write_bytes(msgspec.json.encode(known))
    unfinished.replace(hashes)  # of two processes at once, one hashes again next time
    return digest


def _read(hashes: Path) -> dict[str, _Seen]:
    try:
        return msgspec.json.decode(hashes.read_bytes(), type=dict[str, _Seen])
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
