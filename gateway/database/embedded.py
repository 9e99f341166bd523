"""The embedded Postgres: a real server in the data folder, for machines without DATABASE_URL.

Several processes may use one folder: each holds a shared lock on it while it does, which the
kernel drops when the process ends, however it ends. The last one to stop stops the server. A
server that a killed gateway left running is adopted by the next.
"""

import contextlib
import fcntl
import hashlib
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self
from urllib.parse import quote

import psutil
import psycopg
import structlog

from gateway.database.programs import VERSION, ProgramError, ServerUser, server_user
from gateway.errors import StartupFailure

log = structlog.get_logger(__name__)

PASSING: Final = ("starting up", "shutting down", "recovery", "not yet accepting")
START_S: Final = 300.0  # the time recovery after a crash may take
STOP_S: Final = 60.0
SOCKET: Final = ".s.PGSQL.5432"
SOCKET_PATH_BYTES: Final = 100  # of 104 (macOS) or 108 (Linux), the closing zero included
INITDB: Final = (
    "--auth=trust",  # whoever reaches the socket is trusted; only the owner of the folder does
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--username=postgres",
)


class EmbeddedPostgres:
    """A running server in `<data_dir>/postgres`, made there at the first start.

    All methods block: call them from a thread. StartupFailure says in a line why it cannot start.
    """

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir.expanduser().resolve()
        self._data = self._root / "postgres"
        self._users: IO[str] | None = None
        self._user = ServerUser()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"postgresql://postgres@/postgres?host={quote(str(self._socket_folder()), safe='')}"

    def start(self) -> str:
        """Start or adopt the server, and return its `url` once it answers.

        Calling it again restarts a server that died.
        """
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with self._gate():
                self._hold()
                try:
                    self._user = server_user(self._data)
                    self._make()
                    self._run()
                except BaseException:
                    self._let_go()
                    raise
        except OSError as error:
            raise StartupFailure(f"embedded Postgres in {self._data}: {error}") from error
        return self.url

    def stop(self) -> None:
        """Stop the server, unless another process uses it still. Nothing if it was not started."""
        if not self._root.exists():
            return
        with self._gate():
            if self._users is None:
                return
            alone = self._alone()
            self._let_go()
            if not alone:
                log.info("embedded_postgres_left_running", folder=str(self._data))
            elif self._postmaster() is not None:
                self._halt()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # Locks.

    @contextlib.contextmanager
    def _gate(self) -> Iterator[None]:
        """One process at a time starts or stops the server."""
        with (self._root / "postgres.gate").open("w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            yield

    def _hold(self) -> None:
        if self._users is None:
            users = (self._root / "postgres.users").open("w")
            fcntl.flock(users, fcntl.LOCK_SH)
            self._users = users

    def _alone(self) -> bool:
        assert self._users is not None
        try:
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _let_go(self) -> None:
        assert self._users is not None
        self._users.close()
        self._users = None

    # The data folder.

    def _make(self) -> None:
        """Make the data folder if there is none; StartupFailure if what is there is not ours."""
        if self._data.exists():
            self._check_version()
            return
        unfinished = self._root / "postgres.new"  # an interrupted initdb leaves only this
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._user.own(unfinished)
        try:
            self._user.run("initdb", *INITDB, "--pgdata", str(unfinished), timeout_s=START_S)
        except ProgramError as error:
            raise StartupFailure(f"initdb in {unfinished}: {_reason(str(error))}") from error
        unfinished.rename(self._data)

    def _check_version(self) -> None:
        try:
            version = (self._data / "PG_VERSION").read_text().strip()
        except FileNotFoundError as error:
            raise StartupFailure(
                f"{self._data} holds no PostgreSQL data (no PG_VERSION): move it away, "
                "or set LMAAS_DATA_DIR to another folder"
            ) from error
        if version != str(VERSION):
            raise StartupFailure(
                f"{self._data} was made by PostgreSQL {version or 'unknown'}, the embedded one is "
                f"{VERSION}: upgrade it with pg_upgrade, or set LMAAS_DATA_DIR to another folder"
            )

    def _socket_folder(self) -> Path:
        """The data folder, or, where its path is too long for a socket, a short one of our own."""
        path = str(self._data / SOCKET)
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES and "," not in path:
            return self._data
        name = hashlib.sha256(os.fsencode(self._data)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"lmaas-{name}"

    def _make_socket_folder(self) -> Path:
        folder = self._socket_folder()
        if folder == self._data:
            return folder
        owner = os.geteuid() if self._user.uid is None else self._user.uid
        if not folder.exists():
            folder.mkdir(mode=0o700)
            self._user.own(folder)
        if folder.is_symlink() or folder.stat().st_uid != owner:
            raise StartupFailure(f"{folder}, the folder for Postgres' socket, is another user's")
        return folder

    # The server.

    def _run(self) -> None:
        """Adopt the running server or start one, and wait until it answers."""
        adopted = self._postmaster() is not None
        if not adopted:
            self._launch()
        self._await_answer()
        log.info("embedded_postgres_started", folder=str(self._data), adopted=adopted)

    def _postmaster(self) -> psutil.Process | None:
        """The server of this folder if it runs: its pid file may name a process of today."""
        try:
            first, *_ = (self._data / "postmaster.pid").read_text().splitlines()
            process = psutil.Process(int(first))
            ours = process.name().startswith("postgres") and Path(process.cwd()) == self._data
        except (FileNotFoundError, ValueError, psutil.Error):
            return None
        return process if ours and process.status() != psutil.STATUS_ZOMBIE else None

    def _launch(self) -> None:
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        folder = self._make_socket_folder()
        place = "." if folder == self._data else str(folder)  # relative to the data folder
        options = f"-c listen_addresses='' -p 5432 -k {shlex.quote(place)}"
        until = time.monotonic() + START_S
        while True:
            logged = self._log.stat().st_size if self._log.exists() else 0
            try:
                self._pg_ctl("start", "--log", str(self._log), "--options", options)
            except ProgramError as error:
                reason = self._why(logged) or _reason(str(error))
                # What a killed server leaves of itself needs a moment to go.
                if "shared memory block" in reason and time.monotonic() < until:
                    time.sleep(0.2)
                    continue
                raise StartupFailure(
                    f"embedded Postgres in {self._data} does not start: {reason} "
                    f"(its log: {self._log})"
                ) from error
            return

    def _halt(self) -> None:
        try:
            self._pg_ctl("stop", "--mode", "fast")
        except ProgramError as error:
            log.warning("embedded_postgres_stop_failed", reason=_reason(str(error)))
            return
        if self._socket_folder() != self._data:
            shutil.rmtree(self._socket_folder(), ignore_errors=True)
        log.info("embedded_postgres_stopped", folder=str(self._data))

    def _pg_ctl(self, action: str, *arguments: str) -> None:
        limit_s = START_S if action == "start" else STOP_S
        self._user.run(
            "pg_ctl",
            *(action, "--pgdata", str(self._data), "--wait", "--timeout", f"{limit_s:.0f}"),
            *arguments,
            timeout_s=limit_s + 10,
        )

    def _await_answer(self) -> None:
        until = time.monotonic() + START_S
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=10).close()
            except psycopg.OperationalError as error:
                late = time.monotonic() > until or self._postmaster() is None
                if late or _is_final(str(error)):
                    raise StartupFailure(
                        f"embedded Postgres in {self._data} does not answer: "
                        f"{_reason(str(error))} (its log: {self._log})"
                    ) from error
                time.sleep(0.1)
            else:
                return

    @property
    def _log(self) -> Path:
        return self._data / "server.log"

    def _why(self, start: int) -> str:
        """The newest fatal line logged since the log was `start` bytes long; "" if none was."""
        try:
            with self._log.open("rb") as log_file:
                log_file.seek(start)
                lines = log_file.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        fatal = [line for line in lines if "FATAL:" in line or "PANIC:" in line]
        return fatal[-1].strip() if fatal else ""


def _is_final(refusal: str) -> bool:
    """Whether a server refuses for good, and not because it starts, stops or recovers."""
    return "FATAL:" in refusal and not any(word in refusal for word in PASSING)


def _reason(text: str) -> str:
    """The line of a program's output that says why it failed: the fatal one, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    fatal = [line[line.index("FATAL:") :] for line in lines if "FATAL:" in line]
    return (fatal or lines or ["no reason given"])[-1]
