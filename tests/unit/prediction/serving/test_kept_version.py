"""The version in use is kept on disk, or in memory where that is full."""

from uuid import UUID

import pytest

from gateway.prediction.serving import kept_version
from gateway.prediction.serving.frames import LoadVersion
from gateway.prediction.serving.kept_version import KeptVersion

LOAD = LoadVersion(UUID(int=1), "a model", b"a version" * 1000)


def test_version_is_read_again_as_often_as_processes_start() -> None:
    kept = KeptVersion(LOAD)
    assert kept._load.artefact == b""
    assert [kept.read(), kept.read()] == [LOAD, LOAD]


def test_full_disk_leaves_it_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_version, "TemporaryFile", full)
    assert KeptVersion(LOAD).read() is LOAD
