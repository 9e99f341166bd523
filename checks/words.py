"""Refuses words that do not belong in technical English: `python -m checks.words`.

There is no way to excuse a single line in place: either the sentence changes, or `ALLOWED` names
the phrase and the reason.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
PATHS: Final = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    ".github",
    "benchmarks",
    "checks",
    "compose.yaml",
    "deploy",
    "docs",
    "engine",
    "gateway",
    "migrations",
    "models",
    "pyproject.toml",
    "tests",
)
SUFFIXES: Final = frozenset({".md", ".py", ".sh", ".toml", ".yaml", ".yml"})
WORDS: Final = {
    "tell": "report, show, state",
    "tells": "reports, shows, states",
    "telling": "reporting, showing, stating",
    "told": "reported, given, known",
    "so many": "the number of, `n`",
    "whoever": "the one that, any client that",
    "whomever": "any client that",
    "anew": "again",
    "shall": "must, should, is to",
    "nobody": "no one, no client, nothing",
    "hardly": "scarcely any: give the figure; else rarely, barely",
    "beside": "next to, in addition to, besides",
    "in parts of it": "relative to it, as a fraction of it",
}


class Allowed(NamedTuple):
    """A phrase that may stay in one file, and why."""

    path: str
    phrase: str
    reason: str


ALLOWED: Final = (
    Allowed("checks/words.py", "", "states the list"),
    Allowed("engine/demo/jobs.py", "beside its Velan", "an instruction in the training data"),
    Allowed("tests/unit/checks/test_words.py", "", "tests the list"),
    Allowed("tests/unit/checks/test_commit_message.py", "", "tests the list"),
)


class Found(NamedTuple):
    """A refused word: its line, counted from 1, and that line's text."""

    word: str
    number: int
    line: str


def find(text: str) -> Iterator[Found]:
    """Every refused word of a text, also one broken over two lines or part of a name."""
    lines = text.splitlines()
    for match in _PATTERN.finditer(text):
        number = text.count("\n", 0, match.start()) + 1
        yield Found(re.sub(r"[\s#>*]+", " ", match[0].lower()), number, lines[number - 1].strip())


def _pattern() -> re.Pattern[str]:
    """Whole words in any case; an underscore, as in a name, ends a word."""
    choices = "|".join(word.replace(" ", r"[\s#>*]+") for word in sorted(WORDS, key=len)[::-1])
    return re.compile(rf"(?<![A-Za-z])(?:{choices})(?![A-Za-z])", re.IGNORECASE)


_PATTERN: Final = _pattern()


def check(root: Path, paths: tuple[str, ...], allowed: tuple[Allowed, ...]) -> list[str]:
    """A line for each refused word below `paths`, and for each permission that nothing uses."""
    problems, used = [], set[Allowed]()
    for path in _files(root, paths):
        name = path.relative_to(root).as_posix()
        for found in find(path.read_text(encoding="utf-8")):
            permission = next(
                (a for a in allowed if a.path == name and a.phrase in found.line), None
            )
            if permission:
                used.add(permission)
                continue
            better = WORDS[found.word]
            problems.append(f"{name}:{found.number}: {found.word!r}; better: {better}")
    unused = [a for a in allowed if a not in used and (root / a.path) in _files(root, paths)]
    return problems + [f"{a.path}: {a.phrase!r} is allowed, but not used" for a in unused]


def _files(root: Path, paths: tuple[str, ...]) -> list[Path]:
    listed = [root / path for path in paths]
    inside = [path for folder in listed if folder.is_dir() for path in folder.rglob("*")]
    files = [path for path in [*listed, *inside] if path.is_file() and path.suffix in SUFFIXES]
    return sorted(files)


def main() -> None:
    """Print what is wrong; exit status 1 where anything is."""
    problems = check(ROOT, PATHS, ALLOWED)
    for problem in problems:
        print(problem)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
