"""Models loaded by transformers: unmodified with our attention, or as source of weights."""

from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from engine.attention.interface import LayerAttention
from engine.networks.interface import Packed
from engine.networks.llama import LlamaNetwork
from engine.networks.rotary import Rotary
from engine.networks.shape import LlamaShape

ATTENTION: Final = "lmaas_paged"


class HuggingFaceNetwork:
    """Any model whose attention can be replaced. ValueError for any other."""

    def __init__(self, module: Any) -> None:
        AttentionInterface.register(ATTENTION, _attend)
        module.set_attn_implementation(ATTENTION)
        if module.config._attn_implementation != ATTENTION:  # noqa: SLF001 - there is no public attribute
            raise ValueError("it keeps its own attention")
        self._module = module

    def __call__(self, packed: Packed, attention: LayerAttention[Any]) -> Tensor:
        """Logits of the rows to sample from: (samples, vocabulary)."""
        logits: Tensor = self._module(
            input_ids=packed.token_ids[None],
            position_ids=packed.positions[None],
            use_cache=False,
            logits_to_keep=packed.sample_rows,
            paged=(attention, packed.plan),
        ).logits
        return logits[0]


class ModuleWeights:
    """The tensors of a loaded module, which keeps none of them."""

    def __init__(self, module: nn.Module) -> None:
        self._tensors: dict[str, Tensor] = dict(module.state_dict())
        module.to("meta")

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor of this name, dropped here. ValueError if it has another shape."""
        tensor = self._tensors.pop(name)
        if tensor.shape != shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, expected is {shape}")
        return tensor


def llama_network(module: Any, shape: LlamaShape) -> LlamaNetwork:
    """Our network with the weights of a transformers module of the Llama family."""
    rotary = module.model.rotary_emb
    rotary = Rotary(rotary.inv_freq.to(torch.float32, copy=True), rotary.attention_scaling)
    return LlamaNetwork(shape, ModuleWeights(module), rotary)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - transformers' signature; no mask is built
    *,
    paged: tuple[LayerAttention[Any], Any],
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention as called by transformers: (1, heads, tokens, dim) to (1, tokens, heads, dim)."""
    attention, plan = paged
    layer = module.layer_idx
    assert isinstance(layer, int)
    query, key, value = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = attention.attend(plan, layer, query, key, value, scale=scale, window=sliding_window)
    return out[None], None
