"""The files that `deploy/database_password.py` writes for Postgres and its clients."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "deploy" / "database_password.py"


def put(folder: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        env={**os.environ, "POSTGRES_PASSWORD": given},
        capture_output=True,
        text=True,
        check=False,
    )


def files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_password_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    first = put(tmp_path)
    made = files(tmp_path)
    assert (first.stdout, first.stderr) == ("the database's password is a new one\n", "")
    assert len(made["password"]) > 24
    assert made["pgpass"] == f"*:*:*:*:{made['password']}"
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    assert put(tmp_path).stdout == "the database's password is the one made before\n"
    assert files(tmp_path) == made


def test_given_password_replaces_the_one_made_and_is_escaped_for_libpq(tmp_path: Path) -> None:
    put(tmp_path)
    assert put(tmp_path, r"a:b\c d").returncode == 0
    assert files(tmp_path) == {"password": "a:b\\c d\n", "pgpass": "*:*:*:*:a\\:b\\\\c d\n"}


def test_password_is_not_printed(tmp_path: Path) -> None:
    done = put(tmp_path, "very-secret")
    assert "very-secret" not in done.stdout + done.stderr


def test_password_of_two_lines_is_refused(tmp_path: Path) -> None:
    done = put(tmp_path, "a\nb")
    assert (done.returncode, done.stderr) == (1, "POSTGRES_PASSWORD must be one line\n")
    assert files(tmp_path) == {}


def test_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    done = put(tmp_path / "missing")
    assert done.returncode == 1
    assert done.stderr.endswith("No such file or directory\n")
    assert len(done.stderr.splitlines()) == 1
