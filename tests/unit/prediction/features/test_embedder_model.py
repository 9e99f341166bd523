"""Which folders are sentence-transformers models, and how they differ."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.errors import StartupFailure
from gateway.prediction.features.embedder_model import find_embedder, packaged_embedder

MODULES = "sentence_transformers.models."


@pytest.fixture
def a_model(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model's folder: modules with their configurations, and weights."""

    def write(*modules: tuple[str, dict[str, object]], weights: bytes = b"w") -> Path:
        for number, (_, configuration) in enumerate(modules):
            folder = tmp_path / (f"{number}" if number else "")
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text(json.dumps(configuration))
        listed = [
            {"path": f"{number}" if number else "", "type": MODULES + kind}
            for number, (kind, _) in enumerate(modules)
        ]
        (tmp_path / "modules.json").write_text(json.dumps(listed))
        (tmp_path / "model.safetensors").write_bytes(weights)
        return tmp_path

    return write


TRANSFORMER = ("Transformer", {"hidden_size": 8})


def test_the_packaged_model_is_the_default() -> None:
    assert find_embedder(None) == packaged_embedder()
    assert find_embedder(packaged_embedder().folder) == packaged_embedder()
    assert packaged_embedder().dims == 384
    assert packaged_embedder().id.startswith("all-MiniLM-L6-v2@")


def test_embeddings_can_be_switched_off() -> None:
    assert not find_embedder("off").embeds
    assert packaged_embedder().embeds


@pytest.mark.parametrize(
    ("modules", "dims"),
    [
        ([("Pooling", {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True})], 8),
        (
            [
                (
                    "Pooling",
                    {
                        "word_embedding_dimension": 8,
                        "pooling_mode_mean_tokens": True,
                        "pooling_mode_cls_token": True,
                    },
                )
            ],
            16,
        ),
        ([("Dense", {"out_features": 5}), ("Normalize", {})], 5),
    ],
)
def test_width_is_that_of_the_last_module(
    a_model: Callable[..., Path], modules: list[tuple[str, dict[str, object]]], dims: int
) -> None:
    assert find_embedder(str(a_model(TRANSFORMER, *modules))).dims == dims


def test_folder_that_is_passed_on_is_the_same_embedder(a_model: Callable[..., Path]) -> None:
    first = find_embedder(str(a_model(TRANSFORMER)))
    assert find_embedder(first.folder) == first


def test_other_weights_are_another_embedder(a_model: Callable[..., Path]) -> None:
    first = find_embedder(str(a_model(TRANSFORMER)))
    assert find_embedder(str(a_model(TRANSFORMER))) == first
    assert find_embedder(str(a_model(TRANSFORMER, weights=b"v"))).id != first.id


def test_folder_without_a_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StartupFailure, match=rf"LMAAS_EMBEDDER={tmp_path}/none .*modules\.json"):
        find_embedder(f"{tmp_path}/none")


def test_damaged_configuration_is_refused(a_model: Callable[..., Path]) -> None:
    folder = a_model(("Transformer", {}))
    with pytest.raises(StartupFailure, match="its configuration lacks 'hidden_size'"):
        find_embedder(str(folder))
    (folder / "modules.json").write_text("[")
    with pytest.raises(StartupFailure, match="is not the folder of a sentence-transformers model"):
        find_embedder(str(folder))


def test_model_without_weights_is_refused(a_model: Callable[..., Path]) -> None:
    folder = a_model(TRANSFORMER)
    (folder / "model.safetensors").unlink()
    with pytest.raises(StartupFailure, match=r"has none of model\.safetensors"):
        find_embedder(str(folder))
