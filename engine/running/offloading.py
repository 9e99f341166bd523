"""Sets up the memory of sequences whose keys and values are in host memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

from engine.attention.interface import Attention
from engine.kv.store import KvStore
from engine.networks.llama import LlamaNetwork
from engine.offload.attention import OffloadAttention
from engine.offload.layout import OffloadLayout
from engine.offload.prediction import PredictAttention, choose_prediction, predict_attention
from engine.offload.selection import CODED_DIMS
from engine.offload.store import OffloadStore
from engine.protocol import KvPlacement
from engine.running.loaded_model import LoadedModel


class Offloading(NamedTuple):
    """The store of offloaded sequences, its attention, and why a placement is not served."""

    store: OffloadStore
    attention: OffloadAttention
    refusals: dict[KvPlacement, str]

    @property
    def context_tokens(self) -> int:
        """The most tokens of a sequence that the store can hold."""
        return self.store.pages * self.store.layout.page_tokens

    def close(self) -> None:
        """End its thread."""
        self.attention.close()


def set_up_offloading(
    model: LoadedModel,
    pages: int,
    page_tokens: int,
    attention: Callable[[KvStore, int], Attention[Any]],
) -> Offloading:
    """Allocate `pages`; `attention` makes that of a store for a number of query heads."""
    reason = refusal(model)
    layout = OffloadLayout(
        model.kv_shape, page_tokens, model.dtype, model.device, coded=reason is None
    )
    store = OffloadStore(layout, pages)
    resident = attention(store.resident, model.heads)
    refusals: dict[KvPlacement, str] = {"host-speculative": reason} if reason else {}
    shape = model.kv_shape
    predict: PredictAttention = predict_attention
    if layout.coded:
        predict = choose_prediction(model.device, model.heads, shape.kv_heads, shape.head_dim)
    return Offloading(store, OffloadAttention(resident, store, predict), refusals)


def refusal(model: LoadedModel) -> str | None:
    """Why a model cannot say early which tokens matter; None if it can."""
    network = model.network
    if not isinstance(network, LlamaNetwork):
        return "the model is computed by transformers, which does not say queries a layer early"
    if network.windowed:
        return "layers of the model attend to a window, and need no tokens before it"
    if model.kv_shape.head_dim % CODED_DIMS:
        return f"the model's heads have {model.kv_shape.head_dim} dimensions, an odd number"
    return None
