"""`lmaas errors`: every error code, as the page `docs/errors.md`."""

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

`message` describes this one error; `param` names the parameter at fault, or is `null`. A stream
that has begun ends with the same object as its last event. Every answer carries `x-request-id`,
which also stands in the gateway's log. Commands print `lmaas: ` and the message, and exit with
status 1.

In the column *retry*, **yes** means that the answer carries `Retry-After` in seconds, and **no**
that it carries `x-should-retry: false`; OpenAI's client libraries follow both.

| code | status | cause | remedy | retry |
|---|--:|---|---|---|
"""
# Errors that the web framework finds, and defects: these have no class of ours.
OTHER: Final[dict[int, tuple[str, str]]] = {
    405: (
        "The route exists, but not with this HTTP method.",
        "Use a method that `message` lists.",
    ),
    413: (
        "The body is larger than 16 MiB.",
        "Send a smaller body; split an import into several files.",
    ),
    415: (
        "The body's `Content-Type` is not accepted by this route.",
        "Send `Content-Type: application/json`, or what the OpenAPI page at `/schema` names.",
    ),
    500: (
        "A defect in the gateway.",
        "Report it with `x-request-id`; the gateway's log has the traceback.",
    ),
}


class Entry(NamedTuple):
    """One row of the page; without a status, the error never travels over HTTP."""

    code: str
    status: int | None
    cause: str
    remedy: str


@click.command()
def errors() -> None:
    """Print the page that documents every error code."""
    click.echo(page(), nl=False)


def page() -> str:
    """The error codes as a Markdown page."""
    return HEAD + "".join(_row(entry) for entry in entries())


def entries() -> list[Entry]:
    """Every code, by status; what only commands report comes last."""
    ours = [_entry(kind) for kind in kinds(LmaasError)]
    others = [Entry(CODE[status], status, *texts) for status, texts in OTHER.items()]
    return sorted([*ours, *others], key=lambda entry: (entry.status is None, entry.status))


def kinds(base: type[LmaasError]) -> Iterator[type[LmaasError]]:
    """All classes below `base`, each before those below it."""
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)


def _entry(kind: type[LmaasError]) -> Entry:
    cause, _, _ = (getdoc(kind) or "").partition("\n\n")
    status = None if kind is StartupFailure else status_of(kind(""))
    return Entry(kind.code or "", status, cause.replace("\n", " "), kind.remedy)


def _row(entry: Entry) -> str:
    status = "" if entry.status is None else str(entry.status)
    retry = "yes" if entry.status in RETRY_AFTER_S else "no" if entry.status in NOT_RETRIED else ""
    return f"| `{entry.code}` | {status} | {entry.cause} | {entry.remedy} | {retry} |\n"
