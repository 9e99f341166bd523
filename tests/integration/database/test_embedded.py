"""The embedded Postgres, on real folders and real processes."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from benchmarks.faults.server import PostgresProcesses
from gateway.database import embedded, supervision
from gateway.database.embedded import EmbeddedPostgres, _reason
from gateway.database.supervision import DatabaseWatch
from gateway.errors import StartupFailure
from tests.conftest import PATIENCE_S


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A data folder after a first start that followed an interrupted one."""
    folder = Path(tempfile.mkdtemp(prefix="lmaas-template-"))
    (folder / "postgres.new").mkdir()
    (folder / "postgres.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(folder) as server:
        query(server.url, "CREATE TABLE kept (n int)")
        query(server.url, "INSERT INTO kept VALUES (7)")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def data_dir(template: Path) -> Iterator[Path]:
    """A copy of the template; its server is stopped after the test."""
    folder = Path(tempfile.mkdtemp(prefix="lmaas-data-"))
    copy(template, folder)
    yield folder
    EmbeddedPostgres(folder).stop()
    process = postmaster(folder)
    if process:
        process.send_signal(signal.SIGQUIT)
        process.wait(PATIENCE_S)
    shutil.rmtree(folder)


def copy(template: Path, folder: Path) -> None:
    subprocess.run(["cp", "-a", f"{template}/.", folder], check=True)


def query(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def postmaster(folder: Path) -> psutil.Process | None:
    pid_file = folder / "postgres" / "postmaster.pid"
    try:
        return psutil.Process(int(pid_file.read_text().splitlines()[0]))
    except (FileNotFoundError, IndexError, psutil.NoSuchProcess):
        return None


def alive(process: psutil.Process) -> bool:
    """Whether it runs; an ended orphan stays a zombie if no process reaps it."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def in_another_process(folder: Path, then: str) -> "subprocess.Popen[str]":
    """A process that starts the server, prints that, and then executes `then`."""
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from gateway.database.embedded import EmbeddedPostgres, _reason\n"
        f"server = EmbeddedPostgres(Path({str(folder)!r}))\n"
        f"server.start()\nprint('started', flush=True)\n{then}\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    assert any(line.strip() == "started" for line in process.stdout)
    return process


def test_data_survive_a_restart(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        assert query(server.url, "SELECT n FROM kept") == [(7,)]


def test_stopping_leaves_no_server(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir):
        process = postmaster(data_dir)
        assert process is not None
        assert alive(process)
    assert not alive(process)


def test_server_has_its_own_session_so_ctrl_c_does_not_reach_it(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir):
        process = postmaster(data_dir)
        assert process is not None
        assert os.getsid(process.pid) != os.getsid(0)


def test_server_left_by_a_killed_gateway_is_adopted_and_stopped_by_the_next(data_dir: Path) -> None:
    killed = in_another_process(data_dir, "os.kill(os.getpid(), signal.SIGKILL)")
    assert killed.wait(PATIENCE_S) == -signal.SIGKILL
    close(killed)
    left = postmaster(data_dir)
    assert left is not None
    with EmbeddedPostgres(data_dir) as server:
        assert postmaster(data_dir) == left
        assert query(server.url, "SELECT n FROM kept") == [(7,)]
    assert not alive(left)


def test_server_is_stopped_only_by_its_last_user(data_dir: Path) -> None:
    other = in_another_process(data_dir, "sys.stdin.read()\nserver.stop()")
    with EmbeddedPostgres(data_dir) as server:
        url = server.url
    assert query(url, "SELECT 1") == [(1,)]
    other.communicate("", timeout=PATIENCE_S)
    assert postmaster(data_dir) is None


def close(process: "subprocess.Popen[str]") -> None:
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()


def test_two_concurrent_starts_share_one_server(data_dir: Path) -> None:
    servers = [EmbeddedPostgres(data_dir) for _ in range(2)]
    threads = [threading.Thread(target=server.start) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    process = postmaster(data_dir)
    servers[0].stop()
    assert postmaster(data_dir) == process
    servers[1].stop()
    assert postmaster(data_dir) is None


def test_start_restarts_a_killed_server(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        process = postmaster(data_dir)
        assert process is not None
        process.kill()
        process.wait(PATIENCE_S)
        server.start()
        assert query(server.url, "SELECT n FROM kept") == [(7,)]


def test_stale_pid_file_of_another_process_does_not_prevent_a_start(data_dir: Path) -> None:
    stale = data_dir / "postgres" / "postmaster.pid"
    stale.write_text(f"{os.getpid()}\n{data_dir}/postgres\n1700000000\n5432\n.\n\n  1  2\nready\n")
    with EmbeddedPostgres(data_dir) as server:
        assert query(server.url, "SELECT 1") == [(1,)]


def test_path_too_long_for_a_socket_is_served_through_a_short_one(
    template: Path, tmp_path: Path
) -> None:
    folder = tmp_path / ("long" * 30) / "with space, comma"
    folder.mkdir(parents=True)
    copy(template, folder)
    with EmbeddedPostgres(folder) as server:
        assert query(server.url, "SELECT n FROM kept") == [(7,)]
        socket_folder = server._socket_folder()
        assert socket_folder.stat().st_mode & 0o077 == 0
    assert not socket_folder.exists()


def test_folder_with_other_files_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    chown_like_a_server(tmp_path / "postgres")
    (tmp_path / "postgres" / "notes.txt").write_text("mine")
    with pytest.raises(StartupFailure, match="postgres holds no PostgreSQL data"):
        EmbeddedPostgres(tmp_path).start()


def chown_like_a_server(folder: Path) -> None:
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)


@pytest.mark.parametrize(("content", "version"), [(b"16\n", "16"), (b"\xff1\n", "\ufffd1")])
def test_folder_of_another_release_is_refused_with_both_versions(
    data_dir: Path, content: bytes, version: str
) -> None:
    (data_dir / "postgres" / "PG_VERSION").write_bytes(content)
    with pytest.raises(
        StartupFailure, match=f"made by PostgreSQL {version}, the embedded one is 18"
    ):
        EmbeddedPostgres(data_dir).start()


def test_damaged_folder_is_refused_with_the_servers_own_reason(data_dir: Path) -> None:
    (data_dir / "postgres" / "global" / "pg_control").unlink()
    with pytest.raises(StartupFailure, match=r"does not start: .*pg_control") as raised:
        EmbeddedPostgres(data_dir).start()
    assert "\n" not in raised.value.message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may own root's folder")
def test_permanent_refusal_fails_at_once(data_dir: Path) -> None:
    shutil.rmtree(data_dir / "postgres" / "base")
    with pytest.raises(StartupFailure, match="FATAL"):
        EmbeddedPostgres(data_dir).start()


def test_reason_of_a_failed_program_is_its_fatal_line() -> None:
    said = "making\n2026 UTC [1] FATAL:  could not write: No space left on device\nremoving\n"
    assert _reason(said) == "FATAL:  could not write: No space left on device"


def test_folder_owned_by_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    with pytest.raises(StartupFailure, match="belongs to root"):
        EmbeddedPostgres(tmp_path).start()


def test_interrupted_first_start_leaves_nothing_behind(template: Path) -> None:
    assert not (template / "postgres.new").exists()


@pytest.fixture
async def watch(data_dir: Path) -> AsyncIterator[DatabaseWatch]:
    server = EmbeddedPostgres(data_dir)
    server.start()
    watch = DatabaseWatch(server.url, server)
    yield watch
    await watch.close()
    server.stop()
    assert postmaster(data_dir) is None


async def restarted(watch: DatabaseWatch, times: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while watch.restarts < times or not answers(watch.url):
            await asyncio.sleep(0.05)
    assert query(watch.url, "SELECT n FROM kept") == [(7,)]


async def test_killed_server_is_started_again_with_its_data(
    data_dir: Path, watch: DatabaseWatch
) -> None:
    killed = postmaster(data_dir)
    assert killed
    killed.kill()
    await restarted(watch, 1)


async def test_hanging_server_is_killed_and_started_again(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, watch: DatabaseWatch
) -> None:
    monkeypatch.setattr(supervision, "BEAT_S", 0.2)
    monkeypatch.setattr(supervision, "MAX_MISSED_BEATS", 3)
    with psycopg.connect(watch.url, autocommit=True) as connection:
        PostgresProcesses(data_dir).suspend()
        await restarted(watch, 1)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


async def test_stop_of_a_hanging_server_leaves_none(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "STOP_TIMEOUT_S", 1.0)
    server = EmbeddedPostgres(data_dir)
    server.start()
    PostgresProcesses(data_dir).suspend()
    await asyncio.to_thread(server.stop)
    assert postmaster(data_dir) is None


async def test_a_server_that_refuses_is_away_but_does_not_hang(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "BEAT_S", 0.2)
    with EmbeddedPostgres(data_dir) as server:
        watch = DatabaseWatch(server.url.replace("/postgres?", "/no_such_database?"), server)
        async with asyncio.timeout(PATIENCE_S):
            while watch.answers:
                await asyncio.sleep(0.05)
        await watch.close()
        assert (watch.restarts, watch._missed) == (0, 0)


def answers(url: str) -> bool:
    try:
        query(url, "SELECT 1")
    except psycopg.OperationalError:
        return False
    return True
