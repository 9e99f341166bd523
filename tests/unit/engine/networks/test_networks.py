"""Our own networks against transformers' modules."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from engine.attention.reference import ReferenceAttention
from engine.kv.store import KvStore
from engine.networks.huggingface import HuggingFaceNetwork, llama_network
from engine.networks.linear import DenseLinear, PackedLinear, fixed_linear, packable
from engine.networks.llama import LlamaNetwork
from engine.networks.shape import read_shape
from engine.running.loaded_model import LoadedModel
from engine.running.model import NetworkChoice, load_model
from engine.running.packing import pack
from engine.step.chunks import Chunk

ALL = [
    "llama", "llama-tied", "qwen2", "qwen2-mixed", "qwen3", "mistral", "gemma", "gpt2", "gpt_neox",
]  # fmt: skip
OURS = ["llama", "llama-tied", "qwen2", "qwen2-mixed", "qwen3", "mistral"]
PROMPT = torch.arange(40).mul(7).remainder(97).tolist()
PAGES = 32


def chunked(tokens: list[int], lengths: list[int]) -> Iterator[Chunk]:
    """One sequence in chunks of these lengths, a token sampled after each."""
    sequence = SimpleNamespace(tokens=tokens, pages=list(range(PAGES)), padding=0)
    start = 0
    for length in lengths:
        yield Chunk(sequence, start, length, True, None)
        start += length


def logits(model: LoadedModel, lengths: list[int]) -> Tensor:
    """Logits after each chunk of the prompt: (chunks, vocabulary)."""
    store = KvStore(model.kv_shape, PAGES, 4, model.dtype, model.device)
    attention = ReferenceAttention(store)
    steps = [pack([c], attention, model.device) for c in chunked(PROMPT, lengths)]
    with torch.inference_mode():
        return torch.cat([model.network(step, attention) for step in steps])


@pytest.fixture
def a_model(model_folder: Callable[[str], Path]) -> Callable[..., LoadedModel]:
    def load(family: str, dtype: str = "float32", network: NetworkChoice = "auto") -> LoadedModel:
        return load_model(str(model_folder(family)), "cpu", dtype, network)

    return load


def reference(folder: Path, dtype: torch.dtype = torch.float32) -> Tensor:
    """transformers' logits after each token of the prompt: (tokens, vocabulary)."""
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    with torch.inference_mode():
        scores: Tensor = module(torch.tensor([PROMPT])).logits[0]
    return scores


@pytest.mark.parametrize("family", OURS)
def test_a_model_of_the_llama_family_runs_on_our_network(family: str, a_model: Callable) -> None:
    assert isinstance(a_model(family).network, LlamaNetwork)
    assert isinstance(a_model(family, network="huggingface").network, HuggingFaceNetwork)


@pytest.mark.parametrize("lengths", [[40], [17, 1, 1, 20, 1], [1] * 40])
@pytest.mark.parametrize("family", ALL)
def test_every_family_gives_the_logits_of_transformers(
    family: str, lengths: list[int], a_model: Callable, model_folder: Callable
) -> None:
    expected = reference(model_folder(family))[torch.tensor(lengths).cumsum(0) - 1]
    for network in ("auto", "huggingface"):
        actual = logits(a_model(family, network=network), lengths)
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ALL)
def test_half_precision_is_as_accurate_as_transformers(
    family: str, dtype: str, a_model: Callable, model_folder: Callable
) -> None:
    exact = reference(model_folder(family))
    theirs = reference(model_folder(family), getattr(torch, dtype)).float()
    ours = logits(a_model(family, dtype), [1] * 40).float()
    error = (ours - exact).square().mean().sqrt()
    assert error < 1.5 * (theirs - exact).square().mean().sqrt()


def test_only_rows_that_need_it_get_logits(a_model: Callable) -> None:
    model = a_model("llama")
    attention = ReferenceAttention(KvStore(model.kv_shape, PAGES, 4, model.dtype, model.device))
    [first] = chunked(PROMPT, [9])
    step = pack([first, first._replace(samples_token=False)], attention, model.device)
    assert model.network(step, attention).shape == (1, 97)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama", "hidden_act": "gelu"},
        {"model_type": "gemma"},
        {"model_type": "gpt2"},
        {"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}},
    ],
)
def test_other_models_run_on_transformers(config: dict) -> None:
    assert read_shape(AutoConfig.for_model(**config).to_dict()) is None


@pytest.mark.parametrize("bias", [True, False])
def test_biases_of_attention_and_mlp_are_added(bias: bool, tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = AutoConfig.for_model(
        "llama", vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, attention_bias=bias, mlp_bias=bias, pad_token_id=None,
    )  # fmt: skip
    module = AutoModelForCausalLM.from_config(config)
    for name, weight in module.named_parameters():
        if name.endswith("bias"):
            weight.data.normal_()
    module.save_pretrained(tmp_path)
    actual = logits(load_model(str(tmp_path), "cpu", "float32"), [40])
    torch.testing.assert_close(actual, reference(tmp_path)[-1:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", OURS)
def test_weights_are_not_duplicated(family: str, model_folder: Callable) -> None:
    module = AutoModelForCausalLM.from_pretrained(model_folder(family))
    shape = read_shape(module.config.to_dict())
    assert shape is not None
    llama_network(module, shape)
    assert all(weight.is_meta for weight in module.parameters())


@pytest.mark.parametrize("rows", [1, 7, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_weights_multiply_like_dense_ones(rows: int, dtype: torch.dtype) -> None:
    weight, bias = torch.randn(48, 32).to(dtype), torch.randn(48).to(dtype)
    x, to = torch.randn(rows, 32).to(dtype), torch.randn(rows, 48).to(dtype)
    packed, dense = fixed_linear(weight, bias), DenseLinear(weight, bias)
    assert isinstance(packed, PackedLinear) == packable(weight.device, dtype)
    torch.testing.assert_close(packed(x), dense(x))
    torch.testing.assert_close(packed.add(x, to), dense.add(x, to), atol=0.05, rtol=0.02)
