"""The key of the admin API."""

import hmac
import os
from pathlib import Path
from typing import Final

from msgspec import Struct

from gateway.errors import StartupFailure
from gateway.tenancy.secret import digest, new_secret

FILE: Final = "admin_key"


class AdminKey(Struct, frozen=True):
    """The admin key. `is_new`: it was created by this start, and should be shown once."""

    secret: str
    is_new: bool = False

    def matches(self, secret: str) -> bool:
        """Whether `secret` is the key, compared in constant time."""
        return hmac.compare_digest(digest(secret), digest(self.secret))

    def __repr__(self) -> str:
        return f"AdminKey(is_new={self.is_new})"


def ensure_admin_key(data_dir: Path, given: str | None) -> AdminKey:
    """The given key, else the one in `<data_dir>/admin_key`, else a new one stored there."""
    if given is not None:
        return AdminKey(given)
    path = admin_key_file(data_dir)
    try:
        return _read(path) or _write(path)
    except OSError as error:
        raise StartupFailure(f"{path}: {error.strerror}") from error


def admin_key_file(data_dir: Path) -> Path:
    """The file that keeps a created key."""
    return data_dir.expanduser() / FILE


def _read(path: Path) -> AdminKey | None:
    try:
        secret = path.read_text().strip()
    except FileNotFoundError:
        return None
    return AdminKey(secret) if secret else None


def _write(path: Path) -> AdminKey:
    """A new key in a file that only its owner can read, or the key of a faster process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    key = AdminKey(new_secret(), is_new=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key.secret + "\n")
    try:
        if path.exists() and path.stat().st_size == 0:
            path.unlink()
        path.hardlink_to(unfinished)
    except FileExistsError:
        return _read(path) or key
    finally:
        unfinished.unlink()
    return key
