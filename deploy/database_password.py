"""`database_password.py FOLDER`: the database's password, in the files from which it is read.

It is POSTGRES_PASSWORD if that is set, else the one that FOLDER has, else a new one. The file
`password` is for the POSTGRES_PASSWORD_FILE of the server, `pgpass` for the PGPASSFILE of clients.
Only the standard library is used.
"""

import os
import secrets
import sys
from pathlib import Path
from typing import Final

RANDOM_BYTES: Final = 24


def put(folder: Path, given: str) -> str:
    """Write the files, which only their owner can read; a line that says where it came from."""
    password, source = _password(folder / "password", given)
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    _write(folder / "password", password)
    _write(folder / "pgpass", f"*:*:*:*:{escaped}")
    return f"the database's password is {source}"


def _password(file: Path, given: str) -> tuple[str, str]:
    """The password, and where it came from."""
    if given:
        return given, "POSTGRES_PASSWORD"
    if file.exists():
        return file.read_text().rstrip("\n"), "the one made before"
    return secrets.token_urlsafe(RANDOM_BYTES), "a new one"


def _write(file: Path, line: str) -> None:
    """Replace the file at once, complete or not at all."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(f"{line}\n")
        opened.flush()
        os.fsync(opened.fileno())
    unfinished.replace(file)


if __name__ == "__main__":
    given = os.environ.get("POSTGRES_PASSWORD", "")
    if len(given.splitlines()) > 1:
        sys.exit("POSTGRES_PASSWORD must be one line")
    try:
        print(put(Path(sys.argv[1]), given))  # noqa: T201  what a one-shot service reports
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
