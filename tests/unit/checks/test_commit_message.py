"""The commit rules of CONTRIBUTING.md."""

import subprocess
import sys
from pathlib import Path

import pytest

from checks.commit_message import MAX_SUBJECT, messages, problems

ROOT = Path(__file__).parents[3]
GOOD = "The queue lists the next request first\n\nOperators read it from the top."


@pytest.mark.parametrize(
    "message",
    [
        GOOD,
        GOOD + "\n\n# Please enter the commit message\n# tell",
        GOOD + "\n# ------------------------ >8 ------------------------\ndiff --git told",
        "Merge branch 'x'",
        'Revert "The queue lists the next request first"',
    ],
)
def test_good_messages_pass(message: str) -> None:
    assert problems(message) == []


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("x" * (MAX_SUBJECT - 3) + " y z\n\nWhy.", "the subject has 73 characters"),
        ("Fix bug\n\nWhy.", "the subject is no statement"),
        ("The queue is sorted.\n\nWhy.", "the subject ends with a full stop"),
        ("The queue is sorted", "there is no body"),
        ("The queue is sorted\n\n# a comment alone", "there is no body"),
        ("The queue is sorted\nWhy.", "the line below the subject is not empty"),
        ("The queue is sorted\n\n" + "x" * 101, "a line of the body has 101 characters"),
        ("The queue is sorted anew\n\nWhy.", "'anew'; better: again"),
        ("", "the subject is no statement"),
    ],
)
def test_broken_rule_is_named(message: str, wrong: str) -> None:
    assert any(problem.startswith(wrong) for problem in problems(message))


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_range_judges_each_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init")
    for message in ("First", GOOD, "Second"):
        git(tmp_path, "commit", "--allow-empty", "--message", message)
    monkeypatch.chdir(tmp_path)
    assert [m.strip() for m in messages("HEAD~2..HEAD").values()] == ["Second", GOOD]


@pytest.mark.parametrize(("message", "status"), [(GOOD, 0), ("Fix", 1)])
def test_hook_refuses_by_its_exit_status(tmp_path: Path, message: str, status: int) -> None:
    (tmp_path / "message").write_text(message)
    command = [sys.executable, "-m", "checks.commit_message", str(tmp_path / "message")]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == status
