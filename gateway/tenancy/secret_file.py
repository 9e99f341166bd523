"""A secret in a file of its own that only its owner can read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.errors import StartupFailure


def read_secret(path: Path) -> str | None:
    """The file's secret; None if there is no file, or nothing in it. StartupFailure."""
    with _translated(path):
        try:
            return path.read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None


def write_secret(path: Path, secret: str) -> bool:
    """Put the secret into a new file, whole or not at all. StartupFailure.

    False if the file has a secret already, which it keeps.
    """
    with _translated(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secret + "\n")
        try:
            if path.exists() and path.stat().st_size == 0:
                path.unlink()
            path.hardlink_to(unfinished)
        except FileExistsError:
            return False
        finally:
            unfinished.unlink()
    return True


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StartupFailure(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise StartupFailure(f"{path}: it is damaged, no text in UTF-8") from error
