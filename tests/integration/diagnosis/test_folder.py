"""The data folder, broken in several ways."""

from pathlib import Path

import pytest

from gateway.diagnosis.finding import Finding
from gateway.diagnosis.folder import check_disk, check_permissions, check_spool


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    return data


@pytest.mark.parametrize(("mode", "status"), [(0o700, "ok"), (0o711, "ok")])
def test_a_private_folder_is_fine(folder: Path, mode: int, status: str) -> None:
    folder.chmod(mode)
    assert [found.status for found in check_permissions(folder)] == [status]


@pytest.mark.parametrize(
    ("mode", "status", "remedy"),
    [(0o755, "warning", "chmod go-r "), (0o750, "warning", "chmod go-r "),
     (0o777, "failure", "chmod go-rw "), (0o770, "failure", "chmod go-rw ")],
)  # fmt: skip
def test_a_folder_that_others_reach_is_named_with_the_command(
    folder: Path, mode: int, status: str, remedy: str
) -> None:
    folder.chmod(mode)
    [found] = check_permissions(folder)
    assert (found.status, f"{remedy}{folder}" in found.remedy) == (status, True)


def test_a_readable_admin_key_fails(folder: Path) -> None:
    key = folder / "admin_key"
    key.write_text("sk-lmaas-of-this-test\n")
    key.chmod(0o644)
    [found] = check_permissions(folder)
    assert found.status == "failure"
    assert f"chmod 600 {key}" in found.remedy
    assert "sk-lmaas-of-this-test" not in found.message + found.remedy


def test_a_folder_that_does_not_exist_yet_is_fine(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    found = [*check_permissions(place), *check_disk(place), *check_spool(place, running=False)]
    assert {each.status for each in found} == {"ok"}
    assert not place.parent.exists()


def test_a_file_in_place_of_the_folder_fails(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    [found] = check_permissions(tmp_path / "data")
    assert (found.status, "LMAAS_DATA_DIR" in found.remedy) == ("failure", True)


def test_a_folder_that_cannot_be_written_fails() -> None:
    [found] = check_disk(Path("/proc"))
    assert (found.status, "cannot be written" in found.message) == ("failure", True)


def test_the_write_test_leaves_nothing_behind(folder: Path) -> None:
    [found] = check_disk(folder)
    assert "GiB are free" in found.message
    assert list(folder.iterdir()) == []


def test_refused_and_waiting_records_are_warnings(folder: Path) -> None:
    spool = folder / "spool"
    spool.mkdir()
    assert [found.message for found in check_spool(folder, running=True)] == ["empty"]
    (spool / "000000000001.aside").write_text("{}\n")
    (spool / "000000000002.jsonl").write_bytes(b"x" * (2 << 20))
    found: list[Finding] = [*check_spool(folder, running=True)]
    assert [each.status for each in found] == ["warning", "warning"]
    assert "000000000001.aside" in found[0].message
    assert "2.0 MiB" in found[1].message
