"""GGUF files become folders with the same weights and tokens, or are refused with a reason."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from engine.checkpoints import conversion_process
from engine.checkpoints.gguf_cache import HASHES, conversion_folder, converted
from engine.errors import ModelUnavailable, UnsupportedModel
from tests.unit.engine.checkpoints.conftest import TEMPLATE, tensors


def ignore(line: str) -> None:
    del line


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted file, in this process."""
    made = tmp_path_factory.mktemp("converted")
    conversion_process.convert(tiny, made)
    return made


def test_weights_are_those_of_the_file(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    written = tensors()
    assert len(weights) == len(written)
    for ours, theirs in (
        ("model.embed_tokens", "token_embd"),
        ("model.layers.1.mlp.down_proj", "blk.1.ffn_down"),
        ("model.layers.0.input_layernorm", "blk.0.attn_norm"),
    ):
        expected = torch.from_numpy(written[f"{theirs}.weight"])
        assert torch.equal(weights[f"{ours}.weight"], expected)


def test_folder_names_no_quantisation_and_has_chat_template_and_end_token(folder: Path) -> None:
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2
    assert (folder / "chat_template.jinja").read_text() == TEMPLATE


def test_text_is_cut_as_the_file_says(folder: Path, a_gguf: Callable[..., Path]) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.encode("a 12").tokens == ["a", "Ġ", "1", "2"]  # smollm: digit by digit
    other = folder.parent / "other"
    other.mkdir()
    conversion_process.convert(a_gguf(pre="llama-bpe"), other)
    tokenizer = Tokenizer.from_file(str(other / "tokenizer.json"))
    assert tokenizer.encode("a 12").tokens == ["a", "Ġ", "12"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"architecture": "mamba"}, "mamba model is not served; accepted are gpt2, llama"),
        ({"pre": "tekken"}, "the pre-tokenizer tekken is not served"),
        ({"llama__rope__scaling__type": "yarn"}, "drops the scaling of its RoPE"),
        ({"llama__expert_count": 4}, "mixtures of experts"),
        ({"split__count": 2}, "split GGUF files"),
        ({"without": "blk.1.ffn_up.weight"}, "no weights for model.layers.1.mlp.up_proj.weight"),
    ],
    ids=["architecture", "pre-tokenizer", "rope", "experts", "split", "weights"],
)
def test_file_whose_tokens_would_differ_is_refused(
    a_gguf: Callable[..., Path], tmp_path: Path, fields: dict[str, str], reason: str
) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        conversion_process.convert(a_gguf(**fields), tmp_path)


def test_truncated_file_is_refused(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "cut.gguf"
    file.write_bytes(tiny.read_bytes()[:3000])
    with pytest.raises(UnsupportedModel, match="the file is damaged"):
        conversion_process.convert(file, tmp_path)


def test_file_is_converted_once_by_its_content(tiny: Path, tmp_path: Path) -> None:
    said: list[str] = []
    first = converted(tiny, tmp_path, said.append)
    assert (first / "model.safetensors").is_file()
    assert {line.split()[0] for line in said} == {"reading", "converting"}
    said.clear()
    assert converted(tiny, tmp_path, said.append) == first
    assert said == []  # neither read nor converted again
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(tiny.read_bytes())
    assert converted(copy, tmp_path, said.append) == first
    assert said == ["reading copy.gguf (0 MB)"]


def test_changed_file_is_read_again(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    for content in (tiny.read_bytes(), tiny.read_bytes() + b"more"):
        file.write_bytes(content)
        folder = tmp_path / "models" / f"gguf-{hashlib.sha256(content).hexdigest()[:16]}"
        folder.mkdir(parents=True)  # as if converted
        assert converted(file, tmp_path, ignore) == folder


def test_damaged_file_of_hashes_is_written_again(tiny: Path, tmp_path: Path) -> None:
    said: list[str] = []
    folder = conversion_folder(tiny, tmp_path, said.append)
    (tmp_path / "models" / HASHES).write_bytes(b'{"\xff": 1}')
    for _ in range(2):
        assert conversion_folder(tiny, tmp_path, said.append) == folder
    assert len(said) == 2  # read again once


@pytest.mark.parametrize("content", [b"", b"GG", b"something else"], ids=["empty", "GG", "text"])
def test_other_file_is_refused_without_reading_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelUnavailable, match=f"{file} is not a GGUF file"):
        converted(file, tmp_path, ignore)
