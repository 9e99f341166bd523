"""The questions that a model's folder suggests, by app."""

from pathlib import Path
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from gateway.errors import StartupFailure

FILE: Final = "examples.jsonl"

Examples: TypeAlias = dict[str, list[str]]
"""Questions by the name of the app they are for."""


class Example(Struct):
    """A question for an app."""

    app: str
    question: str


def read_examples(model: str) -> Examples:
    """The examples in the folder of the served model. StartupFailure where it has none."""
    path = Path(model) / FILE
    try:
        lines = msgspec.json.Decoder(Example).decode_lines(path.read_bytes())
    except OSError as error:
        raise StartupFailure(
            f"LMAAS_MODEL: the demo needs a model with examples ({path}: {error.strerror})"
        ) from error
    except msgspec.DecodeError as error:
        raise StartupFailure(f"{path}: {error}") from error
    examples: Examples = {}
    for line in lines:
        examples.setdefault(line.app, []).append(line.question)
    return examples
