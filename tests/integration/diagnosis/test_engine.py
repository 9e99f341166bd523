"""Engines that are dead or hang, and what the examination in their place finds."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.checkpoints.catalogue import DEMO_FOLDER
from gateway.diagnosis.engine import check_engine
from gateway.diagnosis.finding import Finding
from gateway.settings import Settings


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[Path]:
    """A socket on which a process listens and never answers."""
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield path


def examined(settings: Settings, *, running: bool = False) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in check_engine(settings, running=running):
        found.setdefault(finding.part, []).append(finding)
    return found


def test_a_dead_engine_large_memory_and_no_compiler_are_each_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "/nowhere/cc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dead = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    settings = Settings(engine_socket=str(dead), kv_tokens=1 << 40)
    found = examined(settings)
    assert [each.status for each in found["engine"]] == ["failure", "ok"]
    assert "LMAAS_ENGINE_SOCKET" in found["engine"][0].remedy
    [memory], [kernel] = found["memory"], found["kernel"]
    assert (memory.status, "LMAAS_KV_TOKENS" in memory.remedy) == ("failure", True)
    assert (kernel.status, "/nowhere/cc" in kernel.message) == ("warning", True)


def test_a_hung_engine_of_a_running_gateway_fails(
    hung: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.diagnosis.engine.ANSWER_S", 0.2)
    monkeypatch.setattr("gateway.diagnosis.engine.COMMAND", (sys.executable, "-c", ""))
    found = examined(Settings(data_dir=str(hung.parent)), running=True)
    assert found["engine"][0].status == "failure"
    assert str(hung) in found["engine"][0].message


def test_an_examination_that_crashes_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = "import os, sys; print('a last word', file=sys.stderr, flush=True); os.abort()"
    monkeypatch.setattr("gateway.diagnosis.engine.COMMAND", (sys.executable, "-c", crash))
    found = examined(Settings(model=str(DEMO_FOLDER), data_dir=str(tmp_path)))
    [engine] = found["engine"]
    assert (engine.status, "exit code -6: a last word" in engine.message) == ("failure", True)


def test_without_a_model_nothing_is_examined(tmp_path: Path) -> None:
    found = examined(Settings(model="/nowhere", data_dir=str(tmp_path)))
    assert [each.status for parts in found.values() for each in parts] == ["warning"]
