"""Loads the model that the settings name.

Models of the Llama family in safetensors files are read directly: transformers takes longer to
import than a small model to load. It loads all others.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError

from engine.errors import StartupFailure
from engine.networks.checkpoint import Checkpoint, IncompleteWeightsError, is_checkpoint
from engine.networks.llama import LlamaNetwork
from engine.networks.rotary import read_rotary
from engine.networks.shape import read_shape
from engine.running.loaded_model import LoadedModel, check_supported, unloadable
from engine.running.number_format import NumberFormat, Processor, choose_format
from engine.settings import Device, Dtype

NetworkChoice = Literal["auto", "huggingface"]
CONFIGURATION_FILES: Final = ("config.json", "generation_config.json")
TOKENIZER_FILE: Final = "tokenizer.json"
WEIGHT_FILES: Final = (
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
)


def load_model(
    name: str, device: Device, dtype: Dtype, network: NetworkChoice = "auto"
) -> LoadedModel:
    """Load the model of a folder or hub name. StartupFailure or UnsupportedModel with one line.

    `network`: "auto" prefers our own network if there is one, "huggingface" uses transformers'.
    """
    torch_device = choose_device(device)
    choose = partial(choose_format, dtype, device=torch_device, processor=Processor.here())
    own = network == "auto"
    model = load_directly(name, torch_device, choose) if own else None
    if model is not None:
        return model
    from engine.running.transformers_model import load_with_transformers  # noqa: PLC0415 - heavy

    return load_with_transformers(name, torch_device, choose, own_network=own)


def load_directly(
    name: str, device: torch.device, choose: Callable[[torch.dtype], NumberFormat]
) -> LoadedModel | None:
    """Load a model of the Llama family; None if only transformers can say what is in its files."""
    try:
        folder = _folder(name, CONFIGURATION_FILES)
        config = _json(folder / "config.json") if folder else None
        shape = read_shape(config) if config else None
        rotary = read_rotary(config, shape.head_dim) if config and shape else None
        folder = _folder(name, (*CONFIGURATION_FILES, *WEIGHT_FILES)) if rotary else None
        if not (config and shape and rotary and folder and is_checkpoint(folder)):
            return None
        check_supported(SimpleNamespace(**config))
        weights = Checkpoint(folder, device)
        number_format = choose(_declared(config) or weights.stored)
        weights.dtype = number_format.dtype
        network = LlamaNetwork(shape, weights, rotary)
    except IncompleteWeightsError:
        return None
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise unloadable(name, error) from error
    properties = SimpleNamespace(**{**config, "head_dim": shape.head_dim})
    eos = _json(folder / "generation_config.json").get("eos_token_id", config.get("eos_token_id"))
    return LoadedModel.of(properties, network, name, eos, number_format, device)


def tokenizer_file(name: str) -> Path | None:
    """The `tokenizer.json` of a folder or hub name; None if there is none."""
    folder = _folder(name, (TOKENIZER_FILE,))
    return folder / TOKENIZER_FILE if folder and (folder / TOKENIZER_FILE).is_file() else None


def choose_device(device: Device) -> torch.device:
    """The device for the model. StartupFailure if a GPU is requested and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise StartupFailure("LMAAS_ENGINE_DEVICE: cuda, but torch sees no CUDA device")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def _folder(name: str, files: tuple[str, ...]) -> Path | None:
    """The folder with these files, of a hub name downloaded if needed; None if there is neither."""
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError):
        return None  # transformers reports the reason


def _json(file: Path) -> dict[str, Any]:
    """The content of a file; nothing if there is none."""
    content: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return content


def _declared(config: dict[str, Any]) -> torch.dtype | None:
    """The number format that a configuration names, in either version's word for it."""
    dtype = getattr(torch, config.get("dtype") or config.get("torch_dtype") or "", None)
    return dtype if isinstance(dtype, torch.dtype) else None
