"""Model folders that are missing, incomplete or broken."""

import shutil
from pathlib import Path

import pytest

from engine.checkpoints.catalogue import DEMO_FOLDER
from gateway.diagnosis.finding import Finding
from gateway.diagnosis.model import check_model
from gateway.settings import Settings


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the shipped model."""
    return shutil.copytree(DEMO_FOLDER, tmp_path / "model")


def check(model: Path | str) -> Finding:
    found = [*check_model(Settings(model=str(model)))]
    assert len(found) == 1
    return found[0]


def test_the_shipped_model_is_fine() -> None:
    found = check(DEMO_FOLDER)
    assert (found.status, "a llama model" in found.message) == ("ok", True)


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "lmaas-dmeo"])
def test_a_missing_folder_is_named(name: str) -> None:
    found = check(name)
    assert (found.status, name in found.message) == ("failure", True)


def test_a_name_of_the_hub_that_is_not_here_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = check("someone/some-model-of-this-test")
    assert (found.status, "downloads it" in found.message) == ("warning", True)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
@pytest.mark.parametrize("damage", ["missing", "broken"])
def test_a_damaged_file_is_named(model: Path, name: str, damage: str) -> None:
    (model / name).unlink()
    if damage == "broken":
        (model / name).write_text("{")
    found = check(model)
    assert found.status == "failure"
    assert str(model) in found.message


def test_missing_weights_are_named(model: Path) -> None:
    for path in model.glob("*.safetensors"):
        path.unlink()
    found = check(model)
    assert (found.status, "safetensors" in found.message) == ("failure", True)


def test_a_template_that_does_not_render_fails(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{% for message in messages %}")
    found = check(model)
    assert (found.status, "template" in found.message) == ("failure", True)


def test_a_template_without_system_messages_is_a_warning(model: Path) -> None:
    (model / "chat_template.jinja").write_text(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}hello"
    )
    found = [*check_model(Settings(model=str(model)))]
    assert [each.status for each in found] == ["ok", "warning"]
