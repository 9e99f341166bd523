"""Checks commit messages against the rules of CONTRIBUTING.md.

`python -m checks.commit_message FILE` checks one message, as git's commit-msg hook passes it;
`python -m checks.commit_message --range main..HEAD` checks the commits of a branch.
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

from checks.words import WORDS, find

MAX_SUBJECT: Final = 72  # characters
MAX_LINE: Final = 100
MIN_WORDS: Final = 3  # of a subject that states a behaviour
MERGES: Final = ("Merge ", "Revert ")  # git's own messages
SCISSORS: Final = "# ------------------------ >8 ------------------------"
USAGE: Final = 2


def problems(message: str) -> list[str]:
    """The problems of a message, a line each."""
    message, _, _ = message.partition(SCISSORS)
    lines = [line.rstrip() for line in message.splitlines() if not line.startswith("#")]
    text = "\n".join(lines).strip()
    subject, _, rest = text.partition("\n")
    if subject.startswith(MERGES):
        return []
    return [*_subject_problems(subject), *_body_problems(rest), *_word_problems(text)]


def _subject_problems(subject: str) -> list[str]:
    wrong = []
    if len(subject) > MAX_SUBJECT:
        wrong.append(f"the subject has {len(subject)} characters; at most {MAX_SUBJECT}")
    if len(subject.split()) < MIN_WORDS:
        wrong.append("the subject is no statement: say what the program does now")
    if subject.endswith("."):
        wrong.append("the subject ends with a full stop")
    return wrong


def _body_problems(rest: str) -> list[str]:
    if not rest.strip():
        return ["there is no body: say why, with figures where there are any"]
    wrong = [] if rest.startswith("\n") else ["the line below the subject is not empty"]
    longest = max(len(line) for line in rest.splitlines())
    if longest > MAX_LINE:
        wrong.append(f"a line of the body has {longest} characters; at most {MAX_LINE}")
    return wrong


def _word_problems(text: str) -> list[str]:
    return [f"{found.word!r}; better: {WORDS[found.word]}" for found in find(text)]


def messages(commits: str) -> dict[str, str]:
    """The message of each commit in a range, by its abbreviated hash."""
    command = ["git", "log", "--no-merges", "--format=%h%x00%B%x01", commits]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    entries = [entry.strip().partition("\0") for entry in output.split("\1") if entry.strip()]
    return {name: message for name, _, message in entries}


def main() -> None:
    """Print what is wrong; exit status 1 where anything is."""
    match sys.argv[1:]:
        case ["--range", commits]:
            judged = messages(commits)
        case [file]:
            judged = {"commit message": Path(file).read_text(encoding="utf-8")}
        case _:
            print(__doc__)
            sys.exit(USAGE)
    wrong = [f"{name}: {line}" for name, message in judged.items() for line in problems(message)]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
