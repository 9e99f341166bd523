"""Which web pages may call the APIs from a browser."""

from typing import Final

from litestar.config.cors import CORSConfig
from litestar.datastructures import Headers
from litestar.types import HTTPScope

from gateway.errors import OriginRefused, shortened

# Browsers hide all others from a page's scripts.
EXPOSED: Final = (
    "x-request-id",
    "retry-after",
    "x-should-retry",
    "x-lmaas-predicted-tokens",
    "x-lmaas-prediction-source",
    "x-lmaas-ignored-parameters",
    "x-lmaas-expected-wait-ms",
    "x-lmaas-expected-wait-band-ms",
    "x-lmaas-batch",
    "x-lmaas-kv",
    "x-lmaas-kv-reason",
    "x-lmaas-limit",
    "x-lmaas-beyond-limits",
    "x-lmaas-has-more",
    "x-lmaas-checksum",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "openai-processing-ms",
)


def cors(origins: str) -> CORSConfig | None:
    """Answers to preflight requests, which come without a key; None where no origin is set.

    `origins` has commas between them; `*` stands for all. Cookies are never accepted.
    """
    if not origins:
        return None
    return CORSConfig(allow_origins=origins.split(","), expose_headers=list(EXPOSED))


def check_preflight(config: CORSConfig | None, scope: HTTPScope) -> None:
    """OriginRefused for a preflight request of an origin that is not allowed.

    The framework would answer it in plain text. Without a configuration the route answers it,
    without the headers that a browser needs.
    """
    if config is None or scope["method"] != "OPTIONS":
        return
    origin = Headers.from_scope(scope).get("origin")
    if origin and not config.is_origin_allowed(origin):
        raise OriginRefused(f"web pages of {shortened(origin)!r} may not call this gateway")
