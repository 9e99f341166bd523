"""The embedded Postgres: a server in the data folder, used when DATABASE_URL is unset.

Several processes may use one folder. Each holds a shared file lock meanwhile, which the kernel
releases when the process ends for any reason. The last process to stop stops the server. A server
left running by a killed gateway is adopted by the next one.
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

from gateway.database.programs import MAJOR_VERSION, ProgramError, ServerUser, server_user
from gateway.errors import StartupFailure

log = structlog.get_logger(__name__)

TRANSIENT_REFUSALS: Final = ("starting up", "shutting down", "recovery", "not yet accepting")
START_TIMEOUT_S: Final = 300.0  # crash recovery may take this long
STOP_TIMEOUT_S: Final = 60.0  # a server that takes longer hangs, and is killed
KILL_TIMEOUT_S: Final = 10.0
SOCKET: Final = ".s.PGSQL.5432"
MAX_SOCKET_PATH_BYTES: Final = 100  # the limit is 104 (macOS) or 108 (Linux), with the final NUL
INITDB: Final = (
    "--auth=trust",  # safe: only the folder's owner can reach the socket
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--username=postgres",
)


class EmbeddedPostgres:
    """The server in `<data_dir>/postgres`; the first start creates the folder.

    All methods block: call them from a thread. StartupFailure has a one-line reason.
    """

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir.expanduser().resolve()
        self._data = self._root / "postgres"
        self._use_lock: IO[str] | None = None
        self._user = ServerUser()

    @property
    def url(self) -> str:
        """The address that clients connect to."""
        return f"postgresql://postgres@/postgres?host={quote(str(self._socket_folder()), safe='')}"

    def start(self) -> str:
        """Start or adopt the server, and return its `url` once it answers.

        Calling it again restarts a server that died.
        """
        try:
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._start_stop_lock():
                self._acquire_use()
                try:
                    self._user = server_user(self._data)
                    self._create_data()
                    self._ensure_running()
                except BaseException:
                    self._release_use()
                    raise
        except OSError as error:
            raise StartupFailure(f"embedded Postgres in {self._data}: {error}") from error
        return self.url

    def running(self) -> bool:
        """Whether the server's process runs, though it may hang."""
        return self._postmaster() is not None

    def kill(self) -> None:
        """End a server that hangs, at once. The next `start` recovers its data."""
        postmaster = self._postmaster()
        if postmaster is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [postmaster, *postmaster.children(recursive=True)]
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(family, KILL_TIMEOUT_S)

    def stop(self) -> None:
        """Stop the server unless another process still uses it. No effect if it was not started."""
        if not self._root.exists():
            return
        with self._start_stop_lock():
            if self._use_lock is None:
                return
            alone = self._is_last_user()
            self._release_use()
            if not alone:
                log.info("embedded_postgres_left_running", folder=str(self._data))
            elif self._postmaster() is not None:
                self._stop_server()

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
    def _start_stop_lock(self) -> Iterator[None]:
        """Lets one process at a time start or stop the server."""
        with (self._root / "postgres.gate").open("w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            yield

    def _acquire_use(self) -> None:
        if self._use_lock is None:
            use_lock = (self._root / "postgres.users").open("w")
            fcntl.flock(use_lock, fcntl.LOCK_SH)
            self._use_lock = use_lock

    def _is_last_user(self) -> bool:
        assert self._use_lock is not None
        try:
            fcntl.flock(self._use_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _release_use(self) -> None:
        assert self._use_lock is not None
        self._use_lock.close()
        self._use_lock = None

    # The data folder.

    def _create_data(self) -> None:
        """Create the data folder if it is missing. StartupFailure if it holds other data."""
        if self._data.exists():
            self._check_version()
            return
        unfinished = self._root / "postgres.new"  # all that an interrupted initdb leaves
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._user.take_ownership(unfinished)
        try:
            self._user.run(
                "initdb", *INITDB, "--pgdata", str(unfinished), timeout_s=START_TIMEOUT_S
            )
        except ProgramError as error:
            raise StartupFailure(f"initdb in {unfinished}: {_reason(str(error))}") from error
        unfinished.rename(self._data)

    def _check_version(self) -> None:
        try:
            version = (self._data / "PG_VERSION").read_text(errors="replace").strip()
        except FileNotFoundError as error:
            raise StartupFailure(
                f"{self._data} holds no PostgreSQL data (no PG_VERSION): move it away, "
                "or set LMAAS_DATA_DIR to another folder"
            ) from error
        if version != str(MAJOR_VERSION):
            raise StartupFailure(
                f"{self._data} was made by PostgreSQL {version or 'unknown'}, the embedded one is "
                f"{MAJOR_VERSION}: upgrade it with pg_upgrade, "
                "or set LMAAS_DATA_DIR to another folder"
            )

    def _socket_folder(self) -> Path:
        """The data folder or, if its path is too long for a socket, a short temporary one."""
        path = str(self._data / SOCKET)
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES and "," not in path:
            return self._data
        name = hashlib.sha256(os.fsencode(self._data)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"lmaas-{name}"

    def _create_socket_folder(self) -> Path:
        folder = self._socket_folder()
        if folder == self._data:
            return folder
        owner = os.geteuid() if self._user.uid is None else self._user.uid
        if not folder.exists():
            folder.mkdir(mode=0o700)
            self._user.take_ownership(folder)
        if folder.is_symlink() or folder.stat().st_uid != owner:
            raise StartupFailure(
                f"{folder}, the folder for Postgres' socket, belongs to another user"
            )
        return folder

    # The server.

    def _ensure_running(self) -> None:
        """Adopt the running server or start one, and wait until it answers."""
        adopted = self._postmaster() is not None
        if not adopted:
            self._launch()
        self._await_answer()
        log.info("embedded_postgres_started", folder=str(self._data), adopted=adopted)

    def _postmaster(self) -> psutil.Process | None:
        """The folder's server process if it runs; a stale pid file may name another process."""
        try:
            first, *_ = (self._data / "postmaster.pid").read_text().splitlines()
            process = psutil.Process(int(first))
            ours = process.name().startswith("postgres") and Path(process.cwd()) == self._data
        except (FileNotFoundError, ValueError, psutil.Error):
            return None
        return process if ours and process.status() != psutil.STATUS_ZOMBIE else None

    def _launch(self) -> None:
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        folder = self._create_socket_folder()
        socket_folder = "." if folder == self._data else str(folder)  # relative to the data folder
        options = f"-c listen_addresses='' -p 5432 -k {shlex.quote(socket_folder)}"
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            logged = self._log.stat().st_size if self._log.exists() else 0
            try:
                self._pg_ctl("start", "--log", str(self._log), "--options", options)
            except ProgramError as error:
                reason = self._fatal_line(logged) or _reason(str(error))
                # The shared memory of a killed server takes a moment to be released.
                if "shared memory block" in reason and time.monotonic() < deadline_s:
                    time.sleep(0.2)
                    continue
                raise StartupFailure(
                    f"embedded Postgres in {self._data} does not start: {reason} "
                    f"(its log: {self._log})"
                ) from error
            return

    def _stop_server(self) -> None:
        try:
            self._pg_ctl("stop", "--mode", "fast")
        except ProgramError as error:
            log.warning("embedded_postgres_stop_failed", reason=_reason(str(error)))
            self.kill()
            return
        if self._socket_folder() != self._data:
            shutil.rmtree(self._socket_folder(), ignore_errors=True)
        log.info("embedded_postgres_stopped", folder=str(self._data))

    def _pg_ctl(self, action: str, *arguments: str) -> None:
        limit_s = START_TIMEOUT_S if action == "start" else STOP_TIMEOUT_S
        self._user.run(
            "pg_ctl",
            *(action, "--pgdata", str(self._data), "--wait", "--timeout", f"{limit_s:.0f}"),
            *arguments,
            timeout_s=limit_s + 10,
        )

    def _await_answer(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=10).close()
            except psycopg.OperationalError as error:
                late = time.monotonic() > deadline_s or self._postmaster() is None
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

    def _fatal_line(self, start: int) -> str:
        """The last fatal line in the log after byte `start`; "" if there is none."""
        try:
            with self._log.open("rb") as log_file:
                log_file.seek(start)
                lines = log_file.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        fatal = [line for line in lines if "FATAL:" in line or "PANIC:" in line]
        return fatal[-1].strip() if fatal else ""


def _is_final(refusal: str) -> bool:
    """Whether a refusal is permanent: the server is not starting, stopping or recovering."""
    return "FATAL:" in refusal and not any(word in refusal for word in TRANSIENT_REFUSALS)


def _reason(text: str) -> str:
    """The reason in a failed program's output: its last fatal line, else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    fatal = [line[line.index("FATAL:") :] for line in lines if "FATAL:" in line]
    return (fatal or lines or ["no reason given"])[-1]
