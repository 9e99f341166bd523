"""Which web pages may call the APIs from a browser."""

from typing import Final

from litestar.config.cors import CORSConfig

# Browsers hide all others from a page's scripts.
EXPOSED: Final = ("x-request-id", "retry-after", "x-should-retry", "x-lmaas-predicted-tokens")


def cors(origins: str) -> CORSConfig | None:
    """Answers to preflight requests, which come without a key; None where no origin is set.

    `origins` has commas between them; `*` stands for all. Cookies are never accepted.
    """
    if not origins:
        return None
    return CORSConfig(allow_origins=origins.split(","), expose_headers=list(EXPOSED))
