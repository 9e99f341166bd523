"""`lmaas errors`: prints `docs/errors.md`, the reference of all error codes."""

from collections.abc import Iterator
from inspect import getdoc
from typing import Final, NamedTuple

import click

from gateway.api.errors import CODE, NOT_RETRIED, RETRY_AFTER_S, status_of
from gateway.errors import LmaasError, StartupFailure

HEAD: Final = """# Errors

Every error has a stable code. This page is written by `make docs` from the classes in
`gateway/errors.py`.

The HTTP APIs answer errors in OpenAI's form:

```json
{"error": {"message": "…", "type": "invalid_request_error",
           "param": "top_p", "code": "invalid_value"}}
```

`message` describes this error; `param` names the invalid parameter, or is `null`. A stream that
has begun ends with the same object as its last event. Every response has the header
`x-request-id`, whose value is also in the gateway's log. Commands print `lmaas: ` and the message,
and exit with status 1.

In the column *retry*, **yes** means that the response has `Retry-After` in seconds, and **no** that
it has `x-should-retry: false`; OpenAI's client libraries follow both. A response of an error with
**yes** has both if no retry of a library would succeed, such as after a wait of over a minute.

| code | status | cause | remedy | retry |
|---|--:|---|---|---|
"""
# Errors that the web framework raises, and defects: they have no class in gateway/errors.py.
FRAMEWORK_ERRORS: Final[dict[int, tuple[str, str]]] = {
    405: (
        "The route exists, but does not accept this HTTP method.",
        "Use a method that `message` lists.",
    ),
    500: (
        "The gateway has a defect.",
        "Report it with `x-request-id`; the gateway's log has the traceback.",
    ),
}


class ErrorEntry(NamedTuple):
    """A row of the page. `status` is None for errors that only commands report."""

    code: str
    status: int | None
    cause: str
    remedy: str
    should_retry: bool = True


@click.command()
def errors() -> None:
    """Print the reference of all error codes."""
    click.echo(page(), nl=False)


def page() -> str:
    """The error codes as a Markdown page."""
    return HEAD + "".join(_row(entry) for entry in entries())


def entries() -> list[ErrorEntry]:
    """Every code, sorted by status; errors that only commands report come last."""
    ours = [_entry(kind) for kind in subclasses_of(LmaasError)]
    others = [
        ErrorEntry(CODE[status], status, *texts) for status, texts in FRAMEWORK_ERRORS.items()
    ]
    return sorted([*ours, *others], key=lambda entry: (entry.status is None, entry.status))


def subclasses_of(base: type[LmaasError]) -> Iterator[type[LmaasError]]:
    """All direct and indirect subclasses, each before its own subclasses."""
    for kind in base.__subclasses__():
        yield kind
        yield from subclasses_of(kind)


def _entry(kind: type[LmaasError]) -> ErrorEntry:
    cause, _, _ = (getdoc(kind) or "").partition("\n\n")
    status = None if kind is StartupFailure else status_of(kind(""))
    cause = cause.replace("\n", " ")
    return ErrorEntry(kind.code or "", status, cause, kind.remedy, kind.should_retry)


def _row(entry: ErrorEntry) -> str:
    status = "" if entry.status is None else str(entry.status)
    final = entry.status in NOT_RETRIED or not entry.should_retry
    retry = "no" if final else "yes" if entry.status in RETRY_AFTER_S else ""
    return f"| `{entry.code}` | {status} | {entry.cause} | {entry.remedy} | {retry} |\n"
