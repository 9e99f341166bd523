"""The page while the gateway starts, which asks again until it has."""

from html import escape
from typing import Final

from litestar.response.base import ASGIResponse

from gateway.dashboard.view.headers import HEADERS

AGAIN_S: Final = 2
PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>LMaaS starts</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"></head>
<body><main><h1>LMaaS</h1>
<p>The gateway starts: {phase}. This page loads again by itself.</p></main></body></html>
"""


def starting_page(phase: str) -> ASGIResponse:
    """503 with what the start does now, for browsers."""
    headers = {**HEADERS, "refresh": str(AGAIN_S), "retry-after": str(AGAIN_S)}
    return ASGIResponse(
        body=PAGE.format(phase=escape(phase)).encode(),
        status_code=503,
        media_type="text/html; charset=utf-8",
        headers=headers,
    )
