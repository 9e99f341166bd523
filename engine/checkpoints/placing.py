"""Puts a model's folder in place at once: complete or not at all, by one process at a time."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

from engine.errors import ModelUnavailable

LOCK_RETRY_S: Final = 0.2
REPORT_S: Final = 3.0  # between two lines of progress; a start repeats a line only after 4 s

Say: TypeAlias = Callable[[str], None]
"""Takes a line of progress."""


def place(target: Path, needed_bytes: int, build: Callable[[Path], Path], say: Say) -> None:
    """Have `build` make a folder in an empty one that it is given, and move it to `target`.

    Returns at once if `target` exists, also if another process made it meanwhile. ModelUnavailable
    if that cannot be done; nothing is left then.
    """
    try:
        make_models_folder(target.parent)
        with _lock(target, say):
            if target.is_dir():
                return
            _check_space(target.parent, needed_bytes)
            with _workspace(target) as workspace:
                built = build(workspace)
                _make_durable(built)
                built.rename(target)
    except OSError as error:
        raise ModelUnavailable(f"{error.filename or target}: {error.strerror or error}") from error


def make_models_folder(models: Path) -> None:
    """Make the folder of models; a new data folder around it is readable by its owner only."""
    models.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    models.mkdir(exist_ok=True)


@contextmanager
def _lock(target: Path, say: Say) -> Iterator[None]:
    """Held by the one process that makes `target`; released by the kernel if it is killed."""
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        reported_s = float("-inf")
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() - reported_s >= REPORT_S:
                    say(f"waiting for another process that makes {target}")
                    reported_s = time.monotonic()
                time.sleep(LOCK_RETRY_S)
            else:
                break
        yield


@contextmanager
def _workspace(target: Path) -> Iterator[Path]:
    """An empty folder in the target's file system, removed at the end.

    The lock is held, so one that is there already belongs to a process that was killed.
    """
    folder = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_space(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise ModelUnavailable(
            f"{folder}: {needed_bytes / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free"
        )


def _make_durable(folder: Path) -> None:
    """Give the files the folder's own read permissions, and write them to the disk."""
    readable = folder.stat().st_mode & 0o666
    for file in folder.iterdir():
        file.chmod(readable)
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
