"""Folders appear complete, once, whichever process dies."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.checkpoints.placing import place
from engine.errors import ModelUnavailable
from tests.conftest import PATIENCE_S

ROOT = Path(__file__).parents[4]


def ignore(line: str) -> None:
    del line


def built(workspace: Path) -> Path:
    folder = workspace / "model"
    folder.mkdir()
    (folder / "file").write_text("complete")
    return folder


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(workspace: Path) -> Path:
        built(workspace)
        raise ModelUnavailable("no luck")

    with pytest.raises(ModelUnavailable, match="no luck"):
        place(tmp_path / "target", 0, fail, ignore)
    assert [path.name for path in tmp_path.iterdir()] == [".target.lock"]


def test_files_get_the_folders_read_permissions(tmp_path: Path) -> None:
    def private(workspace: Path) -> Path:
        folder = built(workspace)
        folder.chmod(0o750)
        (folder / "file").chmod(0o600)
        return folder

    place(tmp_path / "target", 0, private, ignore)
    assert (tmp_path / "target" / "file").stat().st_mode & 0o777 == 0o640


def test_new_data_folder_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    place(tmp_path / "data" / "models" / "target", 0, built, ignore)
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data" / "models" / "target" / "file").read_text() == "complete"


@pytest.fixture
def builders(tmp_path: Path) -> Path:
    folder = tmp_path / "builders"
    folder.mkdir()
    return folder


def start(target: Path, builders: Path) -> subprocess.Popen[bytes]:
    module = "tests.unit.engine.checkpoints.building"
    return subprocess.Popen([sys.executable, "-m", module, str(target), str(builders)], cwd=ROOT)


def test_of_several_processes_one_builds(tmp_path: Path, builders: Path) -> None:
    processes = [start(tmp_path / "target", builders) for _ in range(3)]
    assert [process.wait(PATIENCE_S) for process in processes] == [0, 0, 0]
    assert len(list(builders.iterdir())) == 1


def test_next_process_clears_up_after_one_that_was_killed(tmp_path: Path, builders: Path) -> None:
    target = tmp_path / "models" / "target"
    (builders / "die").touch()
    assert start(target, builders).wait(PATIENCE_S) == -signal.SIGKILL
    assert not target.exists()
    place(target, 0, built, ignore)
    assert sorted(path.name for path in target.parent.iterdir()) == [".target.lock", "target"]
