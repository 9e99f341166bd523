"""Engines known by name: published figures of GPUs and of models, as `GPU/MODEL`.

GPUs: NVIDIA's data sheets (memory bandwidth, dense 16-bit rate). Models: the parameters, layers
and widths of their published configurations, weights and keys and values in 16 bits.
"""

from itertools import product
from typing import Final

from msgspec import Struct

from gateway.errors import NotFound
from gateway.replay.cost.model import EngineModel, EngineShape, GpuProfile

VALUE_BYTES: Final = 2  # of a 16-bit number
MEMORY_SHARE: Final = 0.9  # of the card for weights and KV; the rest is for activations
MIN_KV_BYTES: Final = 5e9  # a card that leaves less for KV is too small for the model
OVERHEAD_S: Final = 0.002  # of a step, in addition to its kernels: assumed, no figure is published
PAGE_TOKENS: Final = 16
STEP_TOKENS: Final = 512
CONTEXT_TOKENS: Final = 32_768
DEFAULT_PROFILE: Final = "a100-80gb/llama-3-8b"


class Gpu(Struct, frozen=True):
    """A card's memory in bytes, its bandwidth in bytes a second, and its FLOP a second."""

    memory_bytes: float
    bandwidth_bytes_s: float
    flops_s: float


class PublishedModel(Struct, frozen=True):
    """A model's parameters and layers, and the width of one layer's keys, in numbers."""

    parameters: float
    layers: int
    kv_width: int

    @property
    def weight_bytes(self) -> float:
        """The size of all weights."""
        return VALUE_BYTES * self.parameters

    @property
    def kv_bytes_per_token(self) -> float:
        """The size of one token's keys and values in all layers."""
        return 2 * self.layers * self.kv_width * VALUE_BYTES


def kv_bytes(gpu: Gpu, model: PublishedModel) -> float:
    """The size of the KV pool: the card's memory less the weights; negative if they do not fit."""
    return MEMORY_SHARE * gpu.memory_bytes - model.weight_bytes


GPUS: Final = {
    "a100-80gb": Gpu(80e9, 2_039e9, 312e12),
    "h100-80gb": Gpu(80e9, 3_350e9, 989e12),
    "v100-32gb": Gpu(32e9, 900e9, 125e12),
}
MODELS: Final = {
    "chatglm-6b": PublishedModel(6.2e9, 28, 4_096),
    "gpt-j-6b": PublishedModel(6.05e9, 28, 4_096),
    "llama-3-8b": PublishedModel(8.03e9, 32, 8 * 128),  # 8 key heads of 128
    "llama-13b": PublishedModel(13.0e9, 40, 5_120),
    "gpt-neox-20b": PublishedModel(20.6e9, 44, 6_144),
    "llama-33b": PublishedModel(32.5e9, 60, 6_656),
}
NAMES: Final = tuple(
    f"{card}/{model}"
    for (card, gpu), (model, published) in product(GPUS.items(), MODELS.items())
    if kv_bytes(gpu, published) >= MIN_KV_BYTES
)


def profile(name: str) -> EngineModel:
    """The engine of this name. NotFound lists the known ones."""
    if name not in NAMES:
        raise NotFound(f"there is no profile {name}; known are {', '.join(NAMES)}")
    card, model = name.split("/")
    return engine_model(name, GPUS[card], MODELS[model])


def engine_model(name: str, gpu: Gpu, model: PublishedModel) -> EngineModel:
    """A model on a card that it fits."""
    return EngineModel(
        cost=GpuProfile(
            name=name,
            weight_bytes=model.weight_bytes,
            kv_bytes_per_token=model.kv_bytes_per_token,
            bandwidth_bytes_s=gpu.bandwidth_bytes_s,
            flops_s=gpu.flops_s,
            parameters=model.parameters,
            overhead_s=OVERHEAD_S,
            memory_bytes=gpu.memory_bytes,
        ),
        shape=EngineShape(
            pages=int(kv_bytes(gpu, model) / model.kv_bytes_per_token / PAGE_TOKENS),
            page_tokens=PAGE_TOKENS,
            step_tokens=STEP_TOKENS,
            max_sequences=None,
            context_tokens=CONTEXT_TOKENS,
            swap_token_s=None,
        ),
    )
