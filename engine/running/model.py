"""Loads a Hugging Face model for paged attention, or rejects it with a reason."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from engine.errors import StartupFailure, UnsupportedModel
from engine.kv.store import KvShape
from engine.networks import llama
from engine.networks.huggingface import HuggingFaceNetwork
from engine.networks.interface import Network
from engine.settings import Device, Dtype

NetworkChoice = Literal["auto", "huggingface"]
FAMILIES: Final = ("gemma", "gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")
# Frequencies depend on the longest position in a step, so other sequences change the answer.
BATCH_DEPENDENT_ROPE: Final = frozenset({"dynamic", "longrope"})
LAYER_TYPES: Final = frozenset({"full_attention", "sliding_attention"})
# Model settings that our attention does not implement, and what they enable.
UNSUPPORTED_SETTINGS: Final = {
    "attn_logit_softcapping": "soft-capped attention",
    "final_logit_softcapping": "soft-capped logits",
    "kv_lora_rank": "multi-head latent attention",
    "attention_sinks": "attention sinks",
    "cache_implementation": "a custom cache",
}


class LoadedModel(NamedTuple):
    """The network and the properties that the engine needs.

    `module` is the transformers model it was built from, possibly without the moved weights.
    """

    network: Network
    module: nn.Module
    name: str
    context_tokens: int
    vocabulary: int
    stop_ids: list[int]
    heads: int
    kv_shape: KvShape
    dtype: torch.dtype
    device: torch.device


def load_model(
    name: str, device: Device, dtype: Dtype, network: NetworkChoice = "auto"
) -> LoadedModel:
    """Load the model of a folder or hub name. StartupFailure or UnsupportedModel with one line.

    `network`: "auto" prefers our own network if there is one, "huggingface" uses transformers'.
    """
    transformers_logging.disable_progress_bar()
    torch_device = choose_device(device)
    config = read_config(name)
    check_supported(config)
    number_format = choose_dtype(dtype, torch_device)
    try:
        module, loading = AutoModelForCausalLM.from_pretrained(
            name, config=config, dtype=number_format, output_loading_info=True
        )
        module = module.to(torch_device).eval().requires_grad_(False)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise StartupFailure(f"LMAAS_MODEL: {name} does not load: {_first_line(error)}") from error
    if loading["missing_keys"]:
        raise UnsupportedModel(
            f"LMAAS_MODEL: {name} has no weights for {min(loading['missing_keys'])}"
        )
    number_format = module.dtype
    return LoadedModel(
        network=_network(module, name, network),
        module=module,
        name=name,
        context_tokens=config.max_position_embeddings,
        vocabulary=config.vocab_size,
        stop_ids=_stop_ids(module.generation_config.eos_token_id),
        heads=config.num_attention_heads,
        kv_shape=shape_of(config),
        dtype=number_format,
        device=torch_device,
    )


def _network(module: Any, name: str, choice: NetworkChoice) -> Network:
    if choice == "auto" and llama.supports(module.config):
        return llama.LlamaNetwork(module)
    try:
        return HuggingFaceNetwork(module)
    except ValueError as error:
        raise UnsupportedModel(f"LMAAS_MODEL: {name} is not served: {error}") from error


def choose_device(device: Device) -> torch.device:
    """The device for the model. StartupFailure if a GPU is requested and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise StartupFailure("LMAAS_ENGINE_DEVICE: cuda, but torch sees no CUDA device")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def check_supported(config: Any) -> None:
    """UnsupportedModel unless the engine reproduces the model's tokens in any batch."""
    kind = config.model_type
    if kind not in FAMILIES:
        raise UnsupportedModel(
            f"LMAAS_MODEL: a {kind} model is not served; accepted are {', '.join(FAMILIES)}"
        )
    if getattr(config, "is_encoder_decoder", False) or getattr(
        config, "add_cross_attention", False
    ):
        raise UnsupportedModel("LMAAS_MODEL: only decoder-only models are served")
    unsupported = [
        feature
        for setting, feature in UNSUPPORTED_SETTINGS.items()
        if getattr(config, setting, None)
    ]
    if unsupported:
        raise UnsupportedModel(f"LMAAS_MODEL: {unsupported[0]} is not served")
    layers = sorted(set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES)
    if layers:
        raise UnsupportedModel(f"LMAAS_MODEL: {layers[0]} layers are not served")
    rope = sorted(BATCH_DEPENDENT_ROPE & set(_rope_types(getattr(config, "rope_parameters", None))))
    if rope:
        raise UnsupportedModel(
            f"LMAAS_MODEL: {rope[0]} RoPE depends on the other sequences of a step"
        )


def read_config(name: str) -> Any:
    """The configuration of a folder or hub name. StartupFailure if there is none."""
    if name.startswith(("/", "./", "../", "~")) and not Path(name).is_dir():
        raise StartupFailure(f"LMAAS_MODEL: there is no folder {name}")
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise StartupFailure(f"LMAAS_MODEL: {name} does not load: {_first_line(error)}") from error


def _rope_types(rope: Any) -> Iterator[str]:
    """Every RoPE type in a configuration, which may differ by layer type."""
    if isinstance(rope, dict):
        for key, value in rope.items():
            if key == "rope_type":
                yield value
            yield from _rope_types(value)


def choose_dtype(dtype: Dtype, torch_device: torch.device) -> torch.dtype | str:
    """The number format for the model; "auto": the one of its weights."""
    if dtype != "auto":
        number_format = getattr(torch, dtype)
        assert isinstance(number_format, torch.dtype)
        return number_format
    return torch.float32 if torch_device.type == "cpu" else "auto"


def _stop_ids(declared: int | list[int] | None) -> list[int]:
    if declared is None:
        return []
    return [declared] if isinstance(declared, int) else sorted(declared)


def shape_of(config: Any) -> KvShape:
    """The shape of the KV memory of a model with this configuration."""
    heads = config.num_attention_heads
    return KvShape(
        layers=config.num_hidden_layers,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
    )


def _first_line(error: Exception) -> str:
    """The first line of a library's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
