"""Sets up the memory of sequences whose keys and values are in host memory."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from tokenizers import Tokenizer

from engine.attention.interface import Attention
from engine.kv.store import KvStore
from engine.networks.interface import Packed
from engine.networks.llama import LlamaNetwork
from engine.offload.attention import OffloadAttention
from engine.offload.layout import OffloadLayout, partial_dims
from engine.offload.skew_file import SAMPLE_TOKENS, SampleAttention, load_skew
from engine.offload.store import OffloadStore
from engine.protocol import KvPlacement
from engine.running.loaded_model import LoadedModel

FOLDER: Final = "offload"  # of the data folder


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
    data_folder: Path,
    tokenizer: Path | None,
) -> Offloading:
    """Allocate `pages` and, for a network that can speculate, compute what that needs.

    `attention` makes that of a store for a number of query heads.
    """
    reason = refusal(model, tokenizer)
    head_dim = model.kv_shape.head_dim
    layout = OffloadLayout(
        model.kv_shape,
        page_tokens,
        model.dtype,
        model.device,
        partial_dims=0 if reason else partial_dims(head_dim),
    )
    store = OffloadStore(layout, pages)
    skew = None
    if reason is None:
        assert isinstance(model.network, LlamaNetwork)
        assert tokenizer is not None
        ids = sample_ids(tokenizer, model)
        skew = load_skew(
            data_folder / FOLDER, model.network.fingerprint, lambda a: run_sample(model, ids, a)
        ).to(model.device, model.dtype)
    resident = attention(store.resident, model.heads)
    refusals: dict[KvPlacement, str] = {"host-speculative": reason} if reason else {}
    return Offloading(store, OffloadAttention(resident, store, skew), refusals)


def refusal(model: LoadedModel, tokenizer: Path | None) -> str | None:
    """Why a model cannot say early which tokens matter; None if it can."""
    network = model.network
    if not isinstance(network, LlamaNetwork):
        return "the model is computed by transformers, which does not say queries a layer early"
    if network.windowed:
        return "layers of the model attend to a window, and need no tokens before it"
    if tokenizer is None:
        return "the model has no tokenizer.json for the sample text that its keys are sorted by"
    return None


def sample_ids(tokenizer: Path, model: LoadedModel) -> list[int]:
    """The token ids of a sample of English text, Python's own documentation.

    All tokens in order follow it, in case it is too short for a tokenizer that knows few words.
    """
    from pydoc_data.topics import topics  # noqa: PLC0415 - large, and read once

    encoder = Tokenizer.from_file(str(tokenizer))
    text = "\n".join(topics.values())[: 16 * SAMPLE_TOKENS]
    ids = encoder.encode(text, add_special_tokens=False).ids
    known = [i for i in (*ids, *range(model.vocabulary)) if i < model.vocabulary]
    return known[: min(SAMPLE_TOKENS, model.context_tokens)]


def run_sample(model: LoadedModel, ids: Sequence[int], attention: SampleAttention) -> None:
    """Run the model on one prompt."""
    token_ids = torch.tensor(ids, device=model.device)
    positions = torch.arange(len(ids), device=model.device)
    with torch.inference_mode():
        model.network(Packed(token_ids, positions, positions[-1:], None, None), attention)
