"""Finds the shell and Python blocks of documents, and those marked as not run in tests."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

RUN: Final = frozenset({"console", "python"})
_FENCE: Final = re.compile(r"(`{3,})(\w*)")
_NOT_RUN: Final = re.compile(r"<!-- not run: (.+) -->")
_PROMPT: Final = "$ "


class Block(NamedTuple):
    """A fenced block. `not_run`: the reason in a `not run` comment above it, if any."""

    path: str
    number: int
    language: str
    text: str
    not_run: str | None

    @property
    def place(self) -> str:
        """File and line of the opening fence."""
        return f"{self.path}:{self.number}"


class Command(NamedTuple):
    """A shell command and the output lines that the document shows."""

    script: str
    shown: tuple[str, ...]


def blocks(root: Path, path: str) -> Iterator[Block]:
    """The shell and Python blocks of one document."""
    lines = (root / path).read_text(encoding="utf-8").splitlines()
    above, number = "", 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence:
            end = lines.index(fence[1], number + 1)
            if fence[2] in RUN:
                reason = _NOT_RUN.fullmatch(above)
                text = "\n".join(lines[number + 1 : end])
                yield Block(path, number + 1, fence[2], text, reason and reason[1])
            number = end
        above = lines[number]
        number += 1


def commands(text: str) -> list[Command]:
    """The commands of a console block.

    If any line begins with `$ `, those lines are commands and the others output; else all lines
    are commands.
    """
    prompted = any(line.startswith(_PROMPT) for line in text.splitlines())
    lines = text.splitlines()
    found: list[Command] = []
    while lines:
        script = lines.pop(0).removeprefix(_PROMPT)
        while not _complete(script):
            script += "\n" + lines.pop(0)
        shown = []
        while prompted and lines and not lines[0].startswith(_PROMPT):
            shown.append(lines.pop(0))
        found.append(Command(script, tuple(shown)))
    return found


def _complete(script: str) -> bool:
    """Whether no quotation or line continuation is open."""
    try:
        shlex.split(script, comments=True)
    except ValueError:
        return False
    return True


def missing(shown: tuple[str, ...], output: str) -> list[str]:
    """The shown lines that an output lacks. Numbers may differ; `…` matches any text."""
    return [line for line in shown if not re.search(_pattern(line), output)]


def _pattern(line: str) -> str:
    """A line as a regular expression."""
    parts = re.split(r"(…|\d[\d.,:]*|\s+)", line.strip())
    return "".join(_part(part) for part in parts)


def _part(part: str) -> str:
    if part == "…":
        return ".*"
    if part[:1].isdigit():
        return r"[\d.,:]+"
    return r"\s+" if part.isspace() else re.escape(part)
