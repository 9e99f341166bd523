"""The shape of a model of the Llama family, read from its configuration."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

FAMILIES: Final = frozenset({"llama", "mistral", "qwen2", "qwen3"})
STATIC_ROPE: Final = frozenset({"default", "linear", "llama3", "yarn"})
# No defaults for these: they differ between families and versions of transformers.
REQUIRED: Final = (
    "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads",
    "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "vocab_size",
)  # fmt: skip


class LlamaShape(NamedTuple):
    """What the forward pass and the names of its weights depend on."""

    layers: int
    width: int
    inner: int  # of the MLP
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    epsilon: float
    tied: bool  # embedding and head share their weights
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    head_norms: bool  # queries and keys are normalised for each head
    windows: tuple[int | None, ...]  # of each layer


def read_shape(config: Mapping[str, Any]) -> LlamaShape | None:
    """The shape in a `config.json`; None if it is not of this family or leaves something open."""
    family = config.get("model_type")
    rope = rope_settings(config)
    if (
        family not in FAMILIES
        or config.get("hidden_act") != "silu"
        or rope.get("rope_type") not in STATIC_ROPE
        or rope.get("rope_theta") is None
        or rope.get("partial_rotary_factor", 1.0) != 1.0
        or config.get("partial_rotary_factor", 1.0) != 1.0
        or config.get("quantization_config") is not None
        or (config.get("pretraining_tp") or 1) != 1
        or any(config.get(key) is None for key in REQUIRED)
    ):
        return None
    heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
    head_dim = config.get("head_dim")
    if head_dim is None and family == "qwen3":
        return None
    windows = _windows(config)
    if windows is None or len(windows) != layers:
        return None
    bias = family in {"llama", "qwen3"} and bool(config.get("attention_bias"))
    return LlamaShape(
        layers=layers,
        width=config["hidden_size"],
        inner=config["intermediate_size"],
        heads=heads,
        kv_heads=config["num_key_value_heads"],
        head_dim=head_dim or config["hidden_size"] // heads,
        vocabulary=config["vocab_size"],
        epsilon=config["rms_norm_eps"],
        tied=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=family == "qwen2" or bias,
        out_bias=bias,
        mlp_bias=family == "llama" and bool(config.get("mlp_bias")),
        head_norms=family == "qwen3",
        windows=windows,
    )


def rope_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the rotary embedding, in the names of transformers 5 or of earlier ones."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope.setdefault("rope_type", rope.get("type", "default"))
    rope.setdefault("rope_theta", config.get("rope_theta"))
    return rope


def _windows(config: Mapping[str, Any]) -> tuple[int | None, ...] | None:
    """Each layer's sliding window: in all of Mistral, in some of Qwen, in none of Llama."""
    layers: int = config["num_hidden_layers"]
    match config["model_type"]:
        case "llama":
            return (None,) * layers
        case "mistral":
            if "sliding_window" not in config:
                return None
            every: int | None = config["sliding_window"]
            return (every,) * layers
    types = config.get("layer_types")
    if types is None:
        return None if config.get("use_sliding_window") else (None,) * layers
    window = config.get("sliding_window")
    return tuple(window if kind == "sliding_attention" else None for kind in types)
