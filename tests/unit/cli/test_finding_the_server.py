"""Where `lmaas admin` and `lmaas demo` find the gateway and the admin key."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli.admin.server import find_server
from gateway.cli.batch.client import batch_client
from gateway.errors import StartupFailure
from gateway.server_file import FILE, announced, running_server, server_url

URL = "http://127.0.0.1:4321"
KEY = "sk-lmaas-of-the-folder"
DIES = """
import os, sys
from pathlib import Path
from gateway.server_file import announced
with announced(Path(sys.argv[1]), "http://127.0.0.1:4321"):
    os._exit(0)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "admin_key").write_text(f"{KEY}\n")
    return tmp_path


def environment(folder: Path, **given: str) -> dict[str, str]:
    return {"LMAAS_DATA_DIR": str(folder), **given}


def test_file_is_the_owners_and_is_removed_at_the_end(folder: Path) -> None:
    with announced(folder, URL):
        file = folder / FILE
        assert file.stat().st_mode & 0o777 == 0o600
        assert json.loads(file.read_text()) == {"url": URL, "pid": os.getpid()}
        running = running_server(folder)
        assert running is not None
        assert running.url == URL
        assert running_server(folder) == running  # reading does not release the lock
    assert sorted(path.name for path in folder.iterdir()) == ["admin_key"]


def test_file_of_a_killed_gateway_counts_for_nothing_and_is_replaced(folder: Path) -> None:
    subprocess.run([sys.executable, "-c", DIES, str(folder)], check=True)
    assert (folder / FILE).exists()
    assert running_server(folder) is None
    with announced(folder, "http://127.0.0.1:1234"):
        running = running_server(folder)
        assert running is not None
        assert running.url == "http://127.0.0.1:1234"


@pytest.mark.parametrize("content", [b"{", b'{"url": "\xff", "pid": 1}', b'{"x":' + b"[" * 100_000])
def test_damaged_file_of_a_gateway_that_runs_is_no_server(folder: Path, content: bytes) -> None:
    with announced(folder, URL):
        (folder / FILE).write_bytes(content)  # its lock stays
        assert running_server(folder) is None


def test_missing_file_is_no_server(folder: Path) -> None:
    assert running_server(folder) is None


def test_folder_that_cannot_be_written_is_a_startup_failure(folder: Path) -> None:
    with (
        pytest.raises(StartupFailure, match=r"server\.json: No such file"),
        announced(folder / "missing", URL),
    ):
        pass


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("fe80::1", "http://[fe80::1]:80"),
    ],
)
def test_address_to_bind_becomes_one_to_connect_to(host: str, url: str) -> None:
    assert server_url(host, 80) == url


def test_running_gateway_of_the_data_folder_is_found_with_its_key(folder: Path) -> None:
    with announced(folder, URL):
        for port in ({}, {"LMAAS_PORT": "0"}):
            found = find_server(None, None, environment(folder, **port))
            assert (found.url, found.key) == (URL, KEY)


def test_what_is_given_comes_before_what_is_found(folder: Path) -> None:
    with announced(folder, URL):
        port = environment(folder, LMAAS_PORT="9000", LMAAS_HOST="0.0.0.0")
        assert find_server(None, None, port).url == "http://127.0.0.1:9000"
        variable = {**port, "LMAAS_URL": "http://localhost:7000/", "LMAAS_ADMIN_KEY": "from-there"}
        found = find_server(None, None, variable)
        assert (found.url, found.key) == ("http://localhost:7000", "from-there")
        found = find_server("http://127.0.0.1:1", "given", variable)
        assert (found.url, found.key) == ("http://127.0.0.1:1", "given")


def test_without_a_running_gateway_the_default_port_is_tried_and_the_remedy_known(
    folder: Path,
) -> None:
    found = find_server(None, None, environment(folder))
    assert found.url == "http://127.0.0.1:8000"
    assert f"no gateway runs with the data folder {folder}" in found.unreachable_hint
    with pytest.raises(StartupFailure, match="no gateway runs with the data folder"):
        find_server(None, None, environment(folder, LMAAS_PORT="0"))


def test_key_of_the_data_folder_is_not_sent_to_another_machine(folder: Path) -> None:
    with pytest.raises(StartupFailure, match="is not sent to another machine"):
        find_server("http://gateway.example.org", None, environment(folder))
    found = find_server("http://gateway.example.org", "given", environment(folder))
    assert found.key == "given"
    bound = environment(folder, LMAAS_HOST="10.0.0.5")
    assert find_server("http://10.0.0.5:8000", None, bound).key == KEY


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"sk-\xff\n", "it is damaged, no text in UTF-8"), (b"\n", "admin_key has none")],
)
def test_damaged_or_empty_file_of_the_admin_key_is_named(
    folder: Path, content: bytes, reason: str
) -> None:
    (folder / "admin_key").write_bytes(content)
    with pytest.raises(StartupFailure, match=f"no admin key: give --key .*{reason}"):
        find_server("http://127.0.0.1:8000", None, environment(folder))
    assert find_server("http://127.0.0.1:8000", "given", environment(folder)).key == "given"


def test_api_key_of_the_data_folder_is_not_sent_to_another_machine(folder: Path) -> None:
    (folder / "api_key").write_text("sk-lmaas-of-an-app\n")
    batch_client("http://127.0.0.1:8000", None, environment(folder)).close()
    batch_client("http://gateway.example.org", "given", environment(folder)).close()
    with pytest.raises(StartupFailure, match="is not sent to another machine"):
        batch_client("http://gateway.example.org", None, environment(folder))
    (folder / "api_key").unlink()
    with pytest.raises(StartupFailure, match="does not exist"):
        batch_client("http://127.0.0.1:8000", None, environment(folder))
