"""Models read directly are those that transformers reads."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from engine.networks.huggingface import llama_network
from engine.networks.llama import LlamaNetwork
from engine.networks.rotary import read_rotary
from engine.networks.shape import read_shape
from engine.running.model import load_model

OURS = ["llama", "llama-tied", "qwen2", "qwen2-mixed", "qwen3", "mistral"]
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


def configuration(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return read


@pytest.mark.parametrize("family", OURS)
def test_a_file_and_its_configuration_in_transformers_have_one_shape(
    family: str, model_folder: Callable
) -> None:
    folder = model_folder(family)
    shape = read_shape(configuration(folder))
    assert shape is not None
    assert shape == read_shape(AutoConfig.from_pretrained(folder).to_dict())


@pytest.mark.parametrize("family", OURS)
def test_a_file_in_the_names_of_earlier_versions_has_the_same_shape(
    family: str, model_folder: Callable
) -> None:
    new = configuration(model_folder(family))
    rope = new["rope_parameters"]
    old = {key: value for key, value in new.items() if key != "rope_parameters"}
    old |= {"rope_theta": rope["rope_theta"], "torch_dtype": old.pop("dtype")}
    if rope["rope_type"] != "default":
        old["rope_scaling"] = {"type": rope["rope_type"], **rope}
    assert read_shape(old) == read_shape(new)
    first, second = (read_rotary(given, 16) for given in (old, new))
    assert first is not None
    assert second is not None
    assert first.frequencies.equal(second.frequencies)


@pytest.mark.parametrize(
    "rope", [{"rope_type": "default"}, {"rope_type": "linear", "factor": 4.0}, LLAMA3]
)
def test_frequencies_are_those_of_transformers(rope: dict[str, Any]) -> None:
    config = AutoConfig.for_model(
        "llama", hidden_size=256, num_attention_heads=4, num_hidden_layers=1, vocab_size=8,
        intermediate_size=8, max_position_embeddings=512,
        rope_parameters={"rope_theta": 50_000.0, **rope},
    )  # fmt: skip
    theirs = AutoModelForCausalLM.from_config(config).model.rotary_emb
    ours = read_rotary(config.to_dict(), 64)
    assert ours is not None
    torch.testing.assert_close(ours.frequencies, theirs.inv_freq)
    assert ours.scaling == theirs.attention_scaling


@pytest.mark.parametrize(
    "change",
    [
        {"rms_norm_eps": None},
        {"hidden_act": "gelu"},
        {"partial_rotary_factor": 0.5},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
        {"rope_parameters": {"rope_type": "default"}},
        {"quantization_config": {"quant_method": "gptq"}},
        {"model_type": "mistral"},  # without a sliding window, which has a default
        {"model_type": "qwen3", "head_dim": None},
    ],
)
def test_a_file_that_leaves_something_open_has_no_shape(
    change: dict[str, Any], model_folder: Callable
) -> None:
    assert read_shape(configuration(model_folder("llama")) | change) is None


def test_weights_under_other_names_are_read_by_transformers(
    model_folder: Callable, tmp_path: Path
) -> None:
    """A checkpoint of the base model, whose names lack the prefix."""
    folder = model_folder("llama-tied")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    tensors = load_file(folder / "model.safetensors")
    renamed = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found, expected = (
        load_model(str(tmp_path), "cpu", "auto"),
        load_model(str(folder), "cpu", "auto"),
    )
    assert isinstance(found.network, LlamaNetwork)
    assert isinstance(expected.network, LlamaNetwork)
    assert found.network._embedding.equal(expected.network._embedding)


def test_weights_in_several_files_are_read(model_folder: Callable, tmp_path: Path) -> None:
    module = AutoModelForCausalLM.from_pretrained(model_folder("qwen3"))
    module.save_pretrained(tmp_path, max_shard_size="20KB")
    assert not (tmp_path / "model.safetensors").exists()
    model = load_model(str(tmp_path), "cpu", "auto")
    shape = read_shape(configuration(tmp_path))
    assert shape is not None
    again = llama_network(module, shape)
    assert isinstance(model.network, LlamaNetwork)
    assert model.network._embedding.equal(again._embedding)


def test_a_model_of_the_family_is_loaded_without_transformers(model_folder: Callable) -> None:
    code = (
        "import sys; from engine.running.model import load_model;"
        f"load_model({str(model_folder('llama'))!r}, 'cpu', 'auto');"
        "print([name for name in sys.modules if name in ('transformers', 'torch._dynamo')])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
