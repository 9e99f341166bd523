"""Ports that are taken, and processes that hold a data folder."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.diagnosis.server import check_port, check_server, find_server
from gateway.settings import Settings

HOLDER = """
import socket, sys
lock = open(sys.argv[1], "w")
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_taken_port_is_named_with_its_owner_and_a_free_one(taken: int) -> None:
    found = check_port(Settings(port=taken), None)
    assert found.status == "failure"
    assert f"127.0.0.1:{taken}" in found.message
    assert f"process {socket_owner()}" in found.message
    free = int(found.remedy.rsplit(" ", 1)[1])
    assert check_port(Settings(port=free), None).status == "ok"


def socket_owner() -> int:
    return int(Path("/proc/self").resolve().name)


def test_an_address_of_another_machine_is_named() -> None:
    found = check_port(Settings(host="192.0.2.1"), None)
    assert (found.status, "LMAAS_HOST" in found.remedy) == ("failure", True)


def test_any_free_port_is_fine() -> None:
    assert check_port(Settings(port=0), None).status == "ok"


def test_a_gateway_is_found_by_its_folder_and_fails_if_it_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.diagnosis.server.ANSWER_S", 0.2)
    assert find_server(tmp_path) is None
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "gateway.lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        server = find_server(tmp_path)
        assert server is not None
        assert (server.pid, server.url) == (holder.pid, f"http://127.0.0.1:{port}")
        found = check_server(server)
        assert (found.status, "does not answer" in found.message) == ("failure", True)
        assert check_port(Settings(port=port), server).status == "ok"
        assert check_port(Settings(port=0), server).status == "ok"
        with socket.create_server(("127.0.0.1", 0)) as other:
            free = other.getsockname()[1]
        assert check_port(Settings(port=free), server).status == "warning"
        holder.communicate()
    assert find_server(tmp_path) is None
    assert check_server(None).status == "ok"
