"""A loaded model, and which models are served."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple, Self

import torch

from engine.errors import StartupFailure, UnsupportedModel
from engine.kv.store import KvShape
from engine.networks.interface import Network
from engine.running.number_format import NumberFormat

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
    """The network and the properties that the engine needs."""

    network: Network
    name: str
    context_tokens: int
    vocabulary: int
    stop_ids: list[int]
    heads: int
    kv_shape: KvShape
    number_format: NumberFormat
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """The format of weights and KV memory."""
        return self.number_format.dtype

    @classmethod
    def of(
        cls,
        config: Any,
        network: Network,
        name: str,
        eos: int | list[int] | None,
        number_format: NumberFormat,
        device: torch.device,
    ) -> Self:
        """A network with what its configuration says; `eos` is the id, or ids, of the end."""
        return cls(
            network=network,
            name=name,
            context_tokens=config.max_position_embeddings,
            vocabulary=config.vocab_size,
            stop_ids=_stop_ids(eos),
            heads=config.num_attention_heads,
            kv_shape=shape_of(config),
            number_format=number_format,
            device=device,
        )


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


def unloadable(name: str, error: Exception) -> StartupFailure:
    """The failure of a start, with the first line of a library's message."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return StartupFailure(f"LMAAS_MODEL: {name} does not load: {reason}")


def _rope_types(rope: Any) -> Iterator[str]:
    """Every RoPE type in a configuration, which may differ by layer type."""
    if isinstance(rope, dict):
        for key, value in rope.items():
            if key == "rope_type":
                yield value
            yield from _rope_types(value)


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
