"""Checks the data folder: who may read it, free space, and what waits in the spool."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.diagnosis.finding import Finding, failure, ok, warning
from gateway.tenancy.admin_key import admin_key_file

LITTLE_BYTES: Final = 2 << 30
TOO_LITTLE_BYTES: Final = 256 << 20  # Postgres needs some to recover after a crash
TEST_BYTES: Final = 1 << 20
MANY_SPOOLED_BYTES: Final = 1 << 20  # about a thousand records
OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
OTHERS_READ: Final = stat.S_IRGRP | stat.S_IROTH


def check_permissions(folder: Path) -> Iterator[Finding]:
    """Whether the folder is this user's, and its content hidden from others."""
    if not folder.exists():
        parent = _existing(folder)
        if os.access(parent, os.W_OK | os.X_OK):
            yield ok("permissions", f"{folder} does not exist yet; `lmaas serve` creates it")
        else:
            yield failure(
                "permissions",
                f"{folder} cannot be created in {parent}",
                "set LMAAS_DATA_DIR to a folder in which you may write",
            )
        return
    if not folder.is_dir():
        yield failure("permissions", f"{folder} is no folder", "set LMAAS_DATA_DIR to a folder")
        return
    found = [*_owner(folder), *_modes(folder)]
    yield from found or [ok("permissions", f"{folder} belongs to this user, others cannot read it")]


def _owner(folder: Path) -> Iterator[Finding]:
    owner = folder.stat().st_uid
    if os.geteuid() not in (0, owner):
        yield failure(
            "permissions",
            f"{folder} belongs to user {owner}, and this is user {os.geteuid()}",
            f"run this and `lmaas serve` as its owner, or `chown -R {os.geteuid()} {folder}`",
        )


def _modes(folder: Path) -> Iterator[Finding]:
    """The folder and the admin key. Others may traverse the folder: as root, Postgres does."""
    mode = folder.stat().st_mode
    if mode & OTHERS_WRITE:
        yield failure(
            "permissions",
            f"other users may write in {folder} ({stat.S_IMODE(mode):o})",
            f"run `chmod go-rw {folder}`",
        )
    elif mode & OTHERS_READ:
        yield warning(
            "permissions",
            f"other users may read {folder} ({stat.S_IMODE(mode):o})",
            f"run `chmod go-r {folder}`",
        )
    key = admin_key_file(folder)
    if key.exists() and key.stat().st_mode & (OTHERS_READ | OTHERS_WRITE):
        yield failure(
            "permissions",
            f"other users may read the admin key in {key}",
            f"run `chmod 600 {key}`, and make a new one by `rm {key}` and a restart",
        )


def check_disk(folder: Path) -> Iterator[Finding]:
    """Free space, and whether a file can be written."""
    place = _existing(folder)
    free = shutil.disk_usage(place).free
    remedy = "free some space, or set LMAAS_DATA_DIR to a folder on another disk"
    try:
        if place == folder:
            _write(folder)
    except OSError as error:
        yield failure("disk", f"{folder} cannot be written: {error.strerror}", remedy)
        return
    message = f"{free / (1 << 30):.1f} GiB are free for {folder}"
    if free < TOO_LITTLE_BYTES:
        yield failure("disk", message, remedy)
    elif free < LITTLE_BYTES:
        yield warning("disk", message, remedy)
    else:
        yield ok("disk", message)


def check_spool(folder: Path, *, running: bool) -> Iterator[Finding]:
    """What the spool holds: records that wait for the database, and those it refused."""
    spool = folder / "spool"
    if not spool.is_dir():
        yield ok("spool", "empty")
        return
    waiting = sum(path.stat().st_size for path in spool.glob("*.jsonl"))
    aside = sorted(spool.glob("*.aside"))
    if aside:
        yield warning(
            "spool",
            f"history refused records, kept in {aside[0]}" + (" and others" * (len(aside) > 1)),
            "look into them, then remove the files",
        )
    if waiting > MANY_SPOOLED_BYTES and running:
        yield warning(
            "spool",
            f"{waiting / (1 << 20):.1f} MiB of records wait for the database",
            "make the database reachable; they are inserted then",
        )
    elif waiting or not aside:
        text = f"{waiting / 1024:.0f} KiB of records wait for the database" if waiting else "empty"
        yield ok("spool", text)


def _write(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\0" * TEST_BYTES)
        file.flush()
        os.fsync(file.fileno())


def _existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())
