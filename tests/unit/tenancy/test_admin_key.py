"""The admin key's file."""

from pathlib import Path

import pytest

from gateway.errors import StartupFailure
from gateway.tenancy.admin_key import ensure_admin_key


def test_first_start_creates_a_key_that_only_the_owner_can_read(tmp_path: Path) -> None:
    key = ensure_admin_key(tmp_path / "new", None)
    assert key.is_new
    assert (tmp_path / "new" / "admin_key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["admin_key"]


def test_new_data_folder_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    ensure_admin_key(tmp_path / "data", None)
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_second_start_reads_the_same_key(tmp_path: Path) -> None:
    first, second = ensure_admin_key(tmp_path, None), ensure_admin_key(tmp_path, None)
    assert second.secret == first.secret
    assert not second.is_new


def test_empty_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "admin_key").touch()
    assert ensure_admin_key(tmp_path, None).is_new
    assert not ensure_admin_key(tmp_path, None).is_new


def test_damaged_file_is_a_startup_failure_and_stays(tmp_path: Path) -> None:
    (tmp_path / "admin_key").write_bytes(b"sk-\xff\n")
    with pytest.raises(StartupFailure, match="admin_key: it is damaged"):
        ensure_admin_key(tmp_path, None)
    assert (tmp_path / "admin_key").read_bytes() == b"sk-\xff\n"


def test_given_key_is_used_and_not_written(tmp_path: Path) -> None:
    key = ensure_admin_key(tmp_path, "from-the-environment")
    assert key.matches("from-the-environment")
    assert not key.is_new
    assert list(tmp_path.iterdir()) == []


def test_only_the_key_itself_matches(tmp_path: Path) -> None:
    key = ensure_admin_key(tmp_path, None)
    assert key.matches(key.secret)
    assert not any(
        key.matches(other) for other in ("", key.secret[:-1], key.secret + "x", "\udcff")
    )


def test_key_does_not_show_in_a_log(tmp_path: Path) -> None:
    key = ensure_admin_key(tmp_path, None)
    assert key.secret not in f"{key!r} {key}"


def test_folder_that_cannot_be_created_is_a_startup_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupFailure, match="admin_key: Not a directory"):
        ensure_admin_key(tmp_path / "file", None)
