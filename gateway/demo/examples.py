"""The demo apps in a model's folder: their instructions and example questions."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from gateway.errors import StartupFailure

QUESTIONS: Final = "examples.jsonl"
APPS: Final = "apps.json"

Examples: TypeAlias = dict[str, list[str]]
"""Questions by app name."""

Instructions: TypeAlias = dict[str, str]
"""Instructions by app name."""


class DemoApp(Struct):
    """An app and its instruction (the system message)."""

    name: str
    instruction: str


class Example(Struct):
    """A question for an app."""

    app: str
    question: str


def read_instructions(model: str) -> Instructions:
    """The instructions in the served model's folder. StartupFailure if it has none."""
    with _readable(Path(model) / APPS) as path:
        apps = msgspec.json.decode(path.read_bytes(), type=list[DemoApp])
    return {app.name: app.instruction for app in apps}


def read_examples(model: str) -> Examples:
    """The examples in the served model's folder. StartupFailure if it has none."""
    with _readable(Path(model) / QUESTIONS) as path:
        lines = msgspec.json.Decoder(Example).decode_lines(path.read_bytes())
    examples: Examples = {}
    for line in lines:
        examples.setdefault(line.app, []).append(line.question)
    return examples


@contextmanager
def _readable(path: Path) -> Iterator[Path]:
    """Raises errors of reading or decoding this file as StartupFailure."""
    try:
        yield path
    except OSError as error:
        raise StartupFailure(
            f"LMAAS_MODEL: the demo needs a model with examples ({path}: {error.strerror})"
        ) from error
    except msgspec.DecodeError as error:
        raise StartupFailure(f"{path}: {error}") from error
