"""The key of the admin API."""

import hmac
from pathlib import Path
from typing import Final

from msgspec import Struct

from gateway.tenancy.secret import digest, new_secret
from gateway.tenancy.secret_file import read_secret, write_secret

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
    """The given key, else the one in `<data_dir>/admin_key`, else a new one stored there.

    StartupFailure if the file cannot be read or written.
    """
    if given is not None:
        return AdminKey(given)
    path = admin_key_file(data_dir)
    return _kept(path) or _made(path)


def admin_key_file(data_dir: Path) -> Path:
    """The file that keeps a created key."""
    return data_dir.expanduser() / FILE


def _kept(path: Path) -> AdminKey | None:
    secret = read_secret(path)
    return AdminKey(secret) if secret else None


def _made(path: Path) -> AdminKey:
    """A new key in the file, or the key of a faster process."""
    key = AdminKey(new_secret(), is_new=True)
    return key if write_secret(path, key.secret) else _kept(path) or key
