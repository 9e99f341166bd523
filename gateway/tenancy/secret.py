"""Secrets of API keys: how they are generated, and what is stored."""

import hashlib
import secrets
from typing import Final

KEY_PREFIX: Final = "sk-lmaas-"
RANDOM_BYTES: Final = 32
SHOWN_CHARACTERS: Final = 4  # shown after the prefix, to identify a key in lists


def new_secret() -> str:
    """A new secret with 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def digest(secret: str) -> bytes:
    """The stored form: SHA-256, in 32 bytes. Random secrets need no slow hash."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def prefix(secret: str) -> str:
    """What lists show: a generated secret's beginning; a chosen one's digest's beginning."""
    if secret.startswith(KEY_PREFIX) and len(secret) >= len(new_secret()):
        return secret[: len(KEY_PREFIX) + SHOWN_CHARACTERS]
    return "sha256:" + digest(secret).hex()[:SHOWN_CHARACTERS]
