"""Loads a model by transformers: any family, any file that transformers reads."""

from collections.abc import Callable
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from engine.errors import UnsupportedModel
from engine.networks.huggingface import HuggingFaceNetwork, llama_network
from engine.networks.interface import Network
from engine.networks.shape import read_shape
from engine.running.loaded_model import LoadedModel, check_supported, unloadable
from engine.running.model_config import read_config
from engine.running.number_format import NumberFormat


def load_with_transformers(
    name: str,
    device: torch.device,
    choose: Callable[[torch.dtype], NumberFormat],
    *,
    own_network: bool,
) -> LoadedModel:
    """Load a folder or hub name. StartupFailure or UnsupportedModel with one line.

    `own_network`: compute the Llama family by our own forward pass.
    """
    transformers_logging.disable_progress_bar()
    config = read_config(name)
    check_supported(config)
    number_format = choose(config.dtype or torch.float32)
    try:
        module, loading = AutoModelForCausalLM.from_pretrained(
            name, config=config, dtype=number_format.dtype, output_loading_info=True
        )
        module = module.to(device).eval().requires_grad_(False)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise unloadable(name, error) from error
    if loading["missing_keys"]:
        raise UnsupportedModel(
            f"LMAAS_MODEL: {name} has no weights for {min(loading['missing_keys'])}"
        )
    eos = module.generation_config.eos_token_id
    network = _network(module, name, own=own_network)
    return LoadedModel.of(config, network, name, eos, number_format, device)


def _network(module: Any, name: str, *, own: bool) -> Network:
    shape = read_shape(module.config.to_dict()) if own else None
    if shape is not None:
        return llama_network(module, shape)
    try:
        return HuggingFaceNetwork(module)
    except ValueError as error:
        raise UnsupportedModel(f"LMAAS_MODEL: {name} is not served: {error}") from error
