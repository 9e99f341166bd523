"""Why a body cannot be read as JSON, in words that name the cause."""

import re
from typing import Final

BYTE_ORDER_MARKS: Final = {
    b"\xef\xbb\xbf": "begins with a UTF-8 byte order mark; send it without one",
    b"\xff\xfe\x00\x00": "is UTF-32; send UTF-8",
    b"\x00\x00\xfe\xff": "is UTF-32; send UTF-8",
    b"\xff\xfe": "is UTF-16; send UTF-8",
    b"\xfe\xff": "is UTF-16; send UTF-8",
}
GZIP: Final = b"\x1f\x8b"
# Escapes of a UTF-16 surrogate that is not half of a pair; a backslash before must be no escape.
LONE_SURROGATE: Final = re.compile(
    rb"(?<!\\)(?:\\\\)*"
    rb"(?:(\\u[dD][89abAB][0-9a-fA-F]{2})(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})(\\u[dD][c-fC-F][0-9a-fA-F]{2}))"
)
ENCODED_SURROGATE: Final = re.compile(rb"\xed[\xa0-\xbf]")
PLACE: Final = re.compile(r"surrogate pair \(byte (\d+)\)")
NEAR: Final = 16  # bytes around the place where the decoder stopped: a pair of escapes has 12


def other_encoding(body: bytes) -> str | None:
    """What is wrong where the body is no UTF-8 text of JSON from its first bytes on."""
    for mark, reason in BYTE_ORDER_MARKS.items():
        if body.startswith(mark):
            return f"the body {reason}"
    if body.startswith(GZIP):
        return "the body is gzip; send the header 'Content-Encoding: gzip' with it"
    if b"\0" in body[:4]:  # JSON begins with an ASCII character
        return f"the body is {'UTF-32' if body[:4].count(0) > 2 else 'UTF-16'}; send UTF-8"  # noqa: PLR2004
    return None


def explain_json_error(body: bytes, error: Exception) -> str:
    """What is wrong with a body that the decoder refused with this error."""
    if isinstance(error, RecursionError):
        return "the body is nested too deeply"
    try:
        body.decode()
    except UnicodeDecodeError as found:
        if ENCODED_SURROGATE.match(body, found.start):
            return f"the body is not UTF-8: a surrogate is encoded at byte {found.start}"
        return f"the body is not UTF-8: {found.reason} at byte {found.start}"
    detail = str(getattr(error, "detail", error))
    return _explain_surrogate(body, detail) or f"the body is not JSON: {detail}"


def _explain_surrogate(body: bytes, detail: str) -> str | None:
    """The half of a surrogate pair at which the decoder stopped, if that is why.

    Only the surroundings are searched: a whole body would hold up other requests.
    """
    if place := PLACE.search(detail):
        stopped = int(place[1])
    elif "truncated" in detail:  # said of a half at the very end, too
        stopped = len(body)
    else:
        return None
    before = body[: max(stopped - NEAR, 0)]
    escaped = (
        len(before) - len(before.rstrip(b"\\"))
    ) % 2  # its last backslash escapes what follows
    start = len(before) - escaped
    lone = LONE_SURROGATE.search(body[start : stopped + NEAR])
    if lone is None:
        return None
    group = 1 if lone[1] else 2
    escape, place_of = lone[group].decode(), start + lone.start(group)
    return f"the body has half of a surrogate pair, {escape} at byte {place_of}; send both halves"
