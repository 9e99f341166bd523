"""API keys' secrets: how they are made, and what is kept of them."""

import hashlib
import secrets
from typing import Final

MARK: Final = "sk-lmaas-"
RANDOM_BYTES: Final = 32
PREFIX_CHARACTERS: Final = 4  # shown beside the mark to tell keys apart


def new_secret() -> str:
    """A fresh secret of 256 random bits."""
    return MARK + secrets.token_urlsafe(RANDOM_BYTES)


def digest(secret: str) -> bytes:
    """What is stored and looked up: the SHA-256 (random secrets need no slow hash)."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def prefix(secret: str) -> str:
    """The beginning of a secret, for lists; of one that was chosen by hand, a digest's."""
    if secret.startswith(MARK) and len(secret) >= len(new_secret()):
        return secret[: len(MARK) + PREFIX_CHARACTERS]
    return "sha256:" + digest(secret).hex()[:PREFIX_CHARACTERS]
