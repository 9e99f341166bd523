"""The demo's apps: those in the served model's folder, else the English ones."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from gateway.demo.english import jobs as english
from gateway.errors import LmaasError

QUESTIONS: Final = "examples.jsonl"
APPS: Final = "apps.json"
SAMPLED_APPS: Final = frozenset({"diary", "story"})  # their answers have no single right form
SAMPLED_TEMPERATURE: Final = 1.0
ENGLISH_MAX_TOKENS: Final = 200
ENGLISH_FREQUENCY_PENALTY: Final = 0.6  # a small model otherwise repeats a sentence without end


class DemoApp(Struct, frozen=True):
    """An app: its instruction (the system message), its questions, and how they are answered."""

    name: str
    instruction: str
    questions: Sequence[str]
    temperature: float = 0.0
    frequency_penalty: float = 0.0
    max_tokens: int | None = None


class _NamedInstruction(Struct):
    name: str
    instruction: str


class _Example(Struct):
    app: str
    question: str


def apps_of(model: str) -> list[DemoApp]:
    """The apps to demonstrate `model` with, a folder or the name of a model on the hub.

    LmaasError if its folder has apps that cannot be read, or none with both an instruction and
    questions.
    """
    folder = Path(model)
    if (folder / APPS).exists():
        return read_apps(folder)
    return [
        DemoApp(
            name=job.name,
            instruction=job.instruction,
            questions=english.questions(job),
            temperature=_temperature(job.name),
            frequency_penalty=ENGLISH_FREQUENCY_PENALTY,
            max_tokens=ENGLISH_MAX_TOKENS,
        )
        for job in english.JOBS
    ]


def read_apps(folder: Path) -> list[DemoApp]:
    """The apps in a model's folder. LmaasError as `apps_of`."""
    with _readable(folder / APPS) as path:
        named = msgspec.json.decode(path.read_bytes(), type=list[_NamedInstruction])
    with _readable(folder / QUESTIONS) as path:
        lines = msgspec.json.Decoder(_Example).decode_lines(path.read_bytes())
    questions: dict[str, list[str]] = {}
    for line in lines:
        questions.setdefault(line.app, []).append(line.question)
    apps = [
        DemoApp(each.name, each.instruction, questions[each.name], _temperature(each.name))
        for each in named
        if each.name in questions
    ]
    if not apps:
        raise LmaasError(f"no app in {folder} has both an instruction and examples")
    return apps


def _temperature(app: str) -> float:
    return SAMPLED_TEMPERATURE if app in SAMPLED_APPS else 0.0


@contextmanager
def _readable(path: Path) -> Iterator[Path]:
    """Raises errors of reading or decoding this file as LmaasError."""
    try:
        yield path
    except OSError as error:
        raise LmaasError(f"{path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise LmaasError(f"{path}: {error}") from error
