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
    if lone := LONE_SURROGATE.search(body):
        escape = (lone[1] or lone[2]).decode()
        place = lone.start(1) if lone[1] else lone.start(2)
        return f"the body has half of a surrogate pair, {escape} at byte {place}; send both halves"
    if encoded := ENCODED_SURROGATE.search(body):
        return f"the body is not UTF-8: a surrogate is encoded at byte {encoded.start()}"
    try:
        body.decode()
    except UnicodeDecodeError as found:
        return f"the body is not UTF-8: {found.reason} at byte {found.start}"
    detail = str(getattr(error, "detail", error))
    return f"the body is not JSON: {detail}"
