"""A small synthetic corpus."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.evaluation.corpus import Corpus, read_corpus

WORDS = ("amber", "bridge", "copper", "dune", "ember", "field", "glade", "harbour", "island")

Columns = dict[str, Any]
Write = Callable[..., Path]


def synthetic_line(app: str, number: int, random: Random) -> Columns:
    """A line: `echo` answers with its input, other apps at the length that a word requests."""
    words = random.choices(WORDS, k=random.randint(2, 12))
    if app == "echo":
        output = words
    else:
        words.append(random.choice(("short", "long")))
        output = random.choices(WORDS, k=(30 if words[-1] == "long" else 6) + random.randint(0, 4))
    return {
        "app": app,
        "instruction": f"You are {app}.",
        "input": " ".join([*words, f"no {number}"]),
        "output": " ".join(output),
        "split": "valid" if number % 5 == 0 else "train",
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes lines, or raw text, to a file in a folder; returns the folder."""

    def written(*lines: Columns | str, folder: str = "data", file: str = "some.jsonl") -> Path:
        path = tmp_path / folder / file
        path.parent.mkdir(exist_ok=True)
        texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        path.write_text("".join(f"{text}\n" for text in texts))
        return path.parent

    return written


@pytest.fixture
def folder(write: Write) -> Path:
    """Two apps of 70 lines, a fifth of each for testing."""
    random = Random(1)
    for app in ("echo", "story"):
        write(*(synthetic_line(app, number, random) for number in range(70)), file=f"{app}.jsonl")
    return write(file="empty.jsonl")


@pytest.fixture
def corpus(folder: Path) -> Corpus:
    return read_corpus(folder, folder)
