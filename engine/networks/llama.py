"""Our forward pass of the Llama family: Llama, Mistral, Qwen2 and Qwen3.

It computes the same as transformers' modules, in fewer and larger operations.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import embedding

from engine.attention.interface import LayerAttention
from engine.networks.interface import Packed
from engine.networks.linear import Linear, fixed_linear
from engine.networks.rotary import Rotary
from engine.networks.rowwise import Norm, Rotation, choose_rowwise
from engine.networks.shape import LlamaShape


class Weights(Protocol):
    """Where the tensors come from, by the names of a Hugging Face checkpoint."""

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor of this name and shape; each is taken once."""


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


class LlamaNetwork:
    """The network of a shape; packed weights are a copy, so the source can be dropped."""

    def __init__(self, shape: LlamaShape, weights: Weights, rotary: Rotary) -> None:
        self._heads = shape.heads
        self._kv_heads = shape.kv_heads
        reader = _Reader(shape, weights)
        self._embedding = reader.table("model.embed_tokens")
        self._rotary = rotary._replace(
            frequencies=rotary.frequencies.to(self._embedding.device, torch.float32)
        )
        self._layers = [reader.layer(index) for index in range(shape.layers)]
        self._norm = reader.norm("model.norm", shape.width)
        self._rowwise = choose_rowwise(self._embedding.device, self._embedding.dtype)
        # Packed weights are a copy, of an embedding's too: products with unpacked ones take up to
        # three times as long.
        head = self._embedding
        if not shape.tied:
            head = weights.take("lm_head.weight", shape.vocabulary, shape.width)
        self._head: Linear = fixed_linear(head)

    def __call__(self, packed: Packed, attention: LayerAttention[Any]) -> Tensor:
        """Logits of the rows to sample from: (samples, vocabulary)."""
        hidden = embedding(packed.token_ids, self._embedding)  # (tokens, width)
        rowwise = self._rowwise
        rotation = rowwise.rotation(self._rotary, packed.positions)
        foresee = self._foresee(packed)
        for index, layer in enumerate(self._layers):
            query, key, value = self._project(layer, hidden, rotation)
            attended = attention.attend(
                packed.plan, index, query, key, value, scale=layer.scale, window=layer.window
            ).flatten(1)
            if index == len(self._layers) - 1 and len(packed.sample_rows) < len(hidden):
                attended, hidden = attended[packed.sample_rows], hidden[packed.sample_rows]
            hidden = layer.out.add(attended, hidden)
            foresee(index + 1, hidden)
            gated = rowwise.gate(layer.gate_up(rowwise.norm(layer.before_mlp, hidden)))
            hidden = layer.down.add(gated, hidden)
        return self._head(rowwise.norm(self._norm, hidden))

    def _foresee(self, packed: Packed) -> Callable[[int, Tensor], None]:
        """What is called with each layer and what the one before has after its attention."""
        foresight, layers = packed.foresight, self._layers
        if foresight is None:
            return lambda index, hidden: None  # noqa: ARG005 - nothing is wanted
        rows = foresight.rows
        rotation = self._rowwise.rotation(self._rotary, packed.positions[rows])

        def foresee(index: int, hidden: Tensor) -> None:
            if index < len(layers):
                query, _, _ = self._project(layers[index], hidden[rows], rotation)
                foresight.foresee(index, query)

        return foresee

    @property
    def windowed(self) -> bool:
        """Whether a layer sees only the last tokens."""
        return any(layer.window is not None for layer in self._layers)

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


class _Reader:
    """Takes the weights of a shape under their names."""

    def __init__(self, shape: LlamaShape, weights: Weights) -> None:
        self._shape = shape
        self._weights = weights

    def table(self, name: str) -> Tensor:
        """The embedding, (vocabulary, width)."""
        return self._weights.take(
            f"{name}.weight", self._shape.vocabulary, self._shape.width
        ).clone()

    def norm(self, name: str, size: int) -> Norm:
        """The weight of a normalisation over `size`."""
        return Norm(self._weights.take(f"{name}.weight", size).clone(), self._shape.epsilon)

    def layer(self, index: int) -> Layer:
        """All weights of a layer."""
        shape, name = self._shape, f"model.layers.{index}"
        rows, kv_rows = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        attention, mlp = f"{name}.self_attn", f"{name}.mlp"
        qkv = {
            f"{attention}.q_proj": rows,
            f"{attention}.k_proj": kv_rows,
            f"{attention}.v_proj": kv_rows,
        }
        gate_up = {f"{mlp}.gate_proj": shape.inner, f"{mlp}.up_proj": shape.inner}
        norms = shape.head_norms
        return Layer(
            before_attention=self.norm(f"{name}.input_layernorm", shape.width),
            qkv=self._fused(qkv, shape.width, bias=shape.qkv_bias),
            query_norm=self.norm(f"{attention}.q_norm", shape.head_dim) if norms else None,
            key_norm=self.norm(f"{attention}.k_norm", shape.head_dim) if norms else None,
            out=self._fused({f"{attention}.o_proj": shape.width}, rows, bias=shape.out_bias),
            before_mlp=self.norm(f"{name}.post_attention_layernorm", shape.width),
            gate_up=self._fused(gate_up, shape.width, bias=shape.mlp_bias),
            down=self._fused({f"{mlp}.down_proj": shape.width}, shape.inner, bias=shape.mlp_bias),
            scale=shape.head_dim**-0.5,
            window=shape.windows[index],
        )

    def _fused(self, outputs: dict[str, int], inputs: int, *, bias: bool) -> Linear:
        """One product in place of several with the same input; `outputs` of each by its name."""
        take = self._weights.take
        weight = torch.cat([take(f"{name}.weight", n, inputs) for name, n in outputs.items()])
        if not bias:
            return fixed_linear(weight)
        return fixed_linear(
            weight, torch.cat([take(f"{name}.bias", n) for name, n in outputs.items()])
        )
