"""The JSON Lines format of imported logs: decoding, and errors per line."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from gateway.errors import InvalidRequest, shortened
from gateway.prediction.messages import FREE, Form

MAX_LINES: Final = 10_000
MAX_REPORTED: Final = 100  # bad lines in an error message

Tokens = Annotated[int, Meta(ge=1, le=1_000_000)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(gt=0, le=1)]


class LogLine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request that was answered elsewhere, with the answer or its length in tokens.

    `app` is the app's id, or its name if that is unique across tenants; `instruction` defaults to
    the registered one. `cut_off`: the answer did not end naturally. `form`: free, json or tool.
    """

    app: str
    input: str
    instruction: str | None = None
    output: str | None = None
    tokens: Tokens | None = None
    user: str | None = None
    max_tokens: Tokens = 4_096
    temperature: Temperature = 1.0
    top_p: Share = 1.0
    cut_off: bool = False
    form: Form = FREE


class BadLine(Struct, frozen=True):
    """The number of a line, counted from 1, and the reason it is refused."""

    number: int
    reason: str


_decoder = msgspec.json.Decoder(LogLine)


def read_lines(body: bytes) -> tuple[dict[int, LogLine], list[BadLine]]:
    """The valid lines by number, and the bad ones; blank lines are skipped.

    InvalidRequest if there are no lines, or more than MAX_LINES.
    """
    lines = {number: line for number, line in enumerate(body.split(b"\n"), 1) if line.strip()}
    if not 0 < len(lines) <= MAX_LINES:
        raise InvalidRequest(
            f"the body has {len(lines)} lines; accepted are 1 to {MAX_LINES}, one JSON object each"
        )
    good: dict[int, LogLine] = {}
    bad: list[BadLine] = []
    for number, line in lines.items():
        try:
            read = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            bad.append(BadLine(number, shortened(str(error))))
            continue
        problem = _problem(read)
        if problem is None:
            good[number] = read
        else:
            bad.append(BadLine(number, problem))
    return good, bad


def bad_lines_error(bad: list[BadLine]) -> InvalidRequest:
    """The error that lists the first MAX_REPORTED bad lines, in order."""
    ordered = sorted(bad, key=lambda line: line.number)
    reported = [f"line {line.number}: {line.reason}" for line in ordered[:MAX_REPORTED]]
    if len(bad) > MAX_REPORTED:
        reported.append(f"and {len(bad) - MAX_REPORTED} more")
    return InvalidRequest("nothing was imported\n" + "\n".join(reported))


def _problem(line: LogLine) -> str | None:
    texts = (line.app, line.input, line.instruction, line.user)
    if any("\0" in text for text in texts if text):
        return "a text holds the character NUL"
    if (line.output is None) == (line.tokens is None):
        return "either `output` or `tokens` is needed, and not both"
    if line.output == "":
        return "`output` is empty"
    return None
