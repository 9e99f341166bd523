"""Our forward pass of the Llama family: Llama, Mistral, Qwen2 and Qwen3.

It computes the same as transformers' modules, in fewer and larger operations.
"""

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from engine.attention.interface import Attention
from engine.networks.interface import Packed
from engine.networks.linear import Linear, fixed_linear
from engine.networks.rowwise import Norm, Rotation, choose_rowwise

FAMILIES: Final = frozenset({"llama", "mistral", "qwen2", "qwen3"})
STATIC_ROPE: Final = frozenset({"default", "linear", "llama3", "yarn"})


class Layer(NamedTuple):
    """One layer's weights."""

    before_attention: Norm
    qkv: Linear
    query_norm: Norm | None
    key_norm: Norm | None
    out: Linear
    before_mlp: Norm
    gate_up: Linear
    down: Linear
    scale: float
    window: int | None


def supports(config: Any) -> bool:
    """Whether this forward pass implements a configuration."""
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        config.model_type in FAMILIES
        and config.hidden_act == "silu"
        and rope.get("rope_type") in STATIC_ROPE
        and rope.get("partial_rotary_factor", 1.0) == 1.0
        and getattr(config, "quantization_config", None) is None
        and getattr(config, "pretraining_tp", 1) == 1
    )


class LlamaNetwork:
    """Takes the weights out of a transformers model, leaving only embedding and final norm."""

    def __init__(self, module: Any) -> None:
        config, model = module.config, module.model
        self._heads: int = config.num_attention_heads
        self._kv_heads: int = config.num_key_value_heads
        self._embedding: Tensor = model.embed_tokens.weight
        self._rotary = model.rotary_emb
        self._layers: list[Layer] = []
        for index, layer in enumerate(model.layers):
            self._layers.append(_layer(layer, _window(config, layer)))
            model.layers[index] = nn.Identity()
        self._norm = _norm(model.norm)
        self._rowwise = choose_rowwise(self._embedding.device, self._embedding.dtype)
        # Packed weights are a copy, of an embedding's too: products with unpacked ones take up to
        # three times as long.
        self._head = fixed_linear(module.lm_head.weight)
        module.lm_head = nn.Identity()

    def __call__(self, packed: Packed, attention: Attention[Any]) -> Tensor:
        """Logits of the rows to sample from: (samples, vocabulary)."""
        hidden = embedding(packed.token_ids, self._embedding)  # (tokens, width)
        rowwise = self._rowwise
        rotation = rowwise.rotation(self._rotary, hidden, packed.positions)
        for index, layer in enumerate(self._layers):
            query, key, value = self._project(layer, hidden, rotation)
            attended = attention.attend(
                packed.plan, index, query, key, value, scale=layer.scale, window=layer.window
            ).flatten(1)
            if index == len(self._layers) - 1 and len(packed.sample_rows) < len(hidden):
                attended, hidden = attended[packed.sample_rows], hidden[packed.sample_rows]
            hidden = layer.out.add(attended, hidden)
            gated = rowwise.gate(layer.gate_up(rowwise.norm(layer.before_mlp, hidden)))
            hidden = layer.down.add(gated, hidden)
        return self._head(rowwise.norm(self._norm, hidden))

    def _project(
        self, layer: Layer, hidden: Tensor, rotation: Rotation
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (tokens, heads, dim) each, rotary embedding applied."""
        heads, kv_heads, rowwise = self._heads, self._kv_heads, self._rowwise
        normed = rowwise.norm(layer.before_attention, hidden)
        qkv = layer.qkv(normed).unflatten(-1, (heads + 2 * kv_heads, -1))
        query, key, value = qkv.split((heads, kv_heads, kv_heads), 1)
        if layer.query_norm is None or layer.key_norm is None:
            both = rowwise.rotate(qkv, heads + kv_heads, rotation)
            query, key = both.split((heads, kv_heads), 1)
        else:
            query = rowwise.rotate(rowwise.norm(layer.query_norm, query), heads, rotation)
            key = rowwise.rotate(rowwise.norm(layer.key_norm, key), kv_heads, rotation)
        return query, key, value


def _layer(layer: Any, window: int | None) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return Layer(
        before_attention=_norm(layer.input_layernorm),
        qkv=_fused(attention.q_proj, attention.k_proj, attention.v_proj),
        query_norm=_norm(attention.q_norm) if hasattr(attention, "q_norm") else None,
        key_norm=_norm(attention.k_norm) if hasattr(attention, "k_norm") else None,
        out=_fused(attention.o_proj),
        before_mlp=_norm(layer.post_attention_layernorm),
        gate_up=_fused(mlp.gate_proj, mlp.up_proj),
        down=_fused(mlp.down_proj),
        scale=attention.scaling,
        window=window,
    )


def _norm(module: Any) -> Norm:
    return Norm(module.weight, module.variance_epsilon)


def _fused(*linears: Any) -> Linear:
    """One product in place of several with the same input."""
    weight = torch.cat([linear.weight for linear in linears])
    if linears[0].bias is None:
        return fixed_linear(weight)
    return fixed_linear(weight, torch.cat([linear.bias for linear in linears]))


def _window(config: Any, layer: Any) -> int | None:
    """The sliding window: in all layers of Mistral, in some of Qwen, in none of Llama."""
    if config.model_type == "mistral":
        window: int | None = config.sliding_window
        return window
    return getattr(layer.self_attn, "sliding_window", None)
