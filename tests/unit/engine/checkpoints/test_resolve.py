"""What `LMAAS_MODEL` names."""

import hashlib
from pathlib import Path

import pytest

from engine.checkpoints.catalogue import DEMO, DEMO_FOLDER, SMOLLM2
from engine.checkpoints.resolve import resolve
from engine.errors import ModelUnavailable


def ignore(line: str) -> None:
    del line


@pytest.fixture
def fetched(tmp_path: Path) -> Path:
    """A data folder with SmolLM2, as far as its name is concerned."""
    folder = tmp_path / "models" / "smollm2"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return tmp_path


def test_default_is_the_demo_model_until_another_is_fetched(tmp_path: Path) -> None:
    model = resolve(None, tmp_path, ignore)
    assert (model.name, model.location) == ("lmaas-demo", str(DEMO_FOLDER))


def test_default_is_the_fetched_model(fetched: Path) -> None:
    model = resolve(None, fetched, ignore)
    assert (model.name, model.location) == ("smollm2", str(fetched / "models" / "smollm2"))
    assert model.question == SMOLLM2.question


def test_model_of_the_installation_comes_before_a_fetched_one(
    fetched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.prefix", str(tmp_path / "venv"))
    installed = tmp_path / "venv" / "share" / "lmaas" / "models" / "smollm2"
    installed.mkdir(parents=True)
    (installed / "config.json").write_text("{}")
    for name in (None, "smollm2", str(installed)):
        model = resolve(name, fetched, ignore)
        assert (model.name, model.location) == ("smollm2", str(installed))
        assert model.question == SMOLLM2.question


def test_demo_model_is_served_by_its_name_and_by_its_folder(fetched: Path) -> None:
    for name in ("demo", str(DEMO_FOLDER)):
        model = resolve(name, fetched, ignore)
        assert (model.name, model.location) == ("lmaas-demo", str(DEMO_FOLDER))
        assert model.question == DEMO.question


def test_model_that_is_not_fetched_is_refused_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"LMAAS_MODEL: .*`lmaas models fetch smollm2`"):
        resolve("smollm2", tmp_path, ignore)


def test_folder_is_served_under_its_name(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    model = resolve(str(tmp_path / "mine"), tmp_path, ignore)
    assert (model.name, model.location) == ("mine", str(tmp_path / "mine"))


def test_hub_name_stays_as_it_is(tmp_path: Path) -> None:
    model = resolve("someone/some-model", tmp_path, ignore)
    assert (model.name, model.location) == ("someone/some-model", "someone/some-model")


def test_path_of_no_folder_is_not_taken_for_a_name_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="LMAAS_MODEL: there is no folder /no/such/model"):
        resolve("/no/such/model", tmp_path, ignore)


def test_gguf_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"LMAAS_MODEL: .*x\.gguf: No such file"):
        resolve(str(tmp_path / "x.gguf"), tmp_path, ignore)


def test_gguf_file_is_served_under_its_name(tiny: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(tiny.read_bytes()).hexdigest()
    folder = tmp_path / "models" / f"gguf-{digest[:16]}"
    folder.mkdir(parents=True)  # as if converted
    model = resolve(str(tiny), tmp_path, ignore)
    assert (model.name, model.location) == ("tiny", str(folder))
