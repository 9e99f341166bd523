"""A model that reads a text in chunks, attending in each token's step to what a selector leaves."""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from benchmarks.i2.memory import TextMemory, causal, probabilities, weighted
from benchmarks.i2.selectors import ChunkRows, Selector
from engine.attention.interface import LayerAttention
from engine.networks.interface import Foresight, Packed
from engine.offload.layout import RESIDENT_LAYERS
from engine.running.loaded_model import LoadedModel

PROMPT_CHUNK: Final = 256  # tokens
FORCED_CHUNK: Final = 128


class ReadingAttention:
    """Full attention of the prompt, that fills the memory."""

    def __init__(self, memory: TextMemory) -> None:
        self._memory = memory

    def attend(
        self,
        plan: int,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        window: int | None,
    ) -> Tensor:
        """Attend the chunk that starts at `plan`."""
        assert window is None
        return self._memory.read(layer, plan, query, key, value, scale)


class SelectedAttention:
    """Attention to what a selector leaves, besides each token itself; full in the first layers.

    `share` is the mean share of the tokens before each that was left.
    """

    def __init__(self, memory: TextMemory, selector: Selector) -> None:
        self._memory = memory
        self._selector = selector
        self._foreseen: dict[int, Tensor] = {}
        self._left, self._all = 0, 0

    @property
    def share(self) -> float:
        """The tokens left, over all before."""
        return self._left / self._all

    def foresee(self, layer: int, query: Tensor) -> None:
        """The queries of a layer as predicted from the layer before."""
        self._foreseen[layer] = query

    def attend(
        self,
        plan: int,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        window: int | None,
    ) -> Tensor:
        """Attend the chunk that starts at `plan`."""
        assert window is None
        keys, values = self._memory.write(layer, plan, key, value)
        seen = causal(plan, len(query))
        if layer >= RESIDENT_LAYERS:
            rows = ChunkRows(layer, plan, query, self._foreseen.pop(layer), keys)
            seen = self._selector.choose(rows)
            self._left += int(seen.sum())
            self._all += seen.shape[0] * sum(range(plan, plan + len(query)))
            own = torch.arange(len(query))
            seen[:, own, plan + own] = True
        return weighted(probabilities(query, keys, scale, seen), values)


def read_prompt(model: LoadedModel, ids: Sequence[int], prompt: int, room: int = 0) -> TextMemory:
    """The memory of a text after its prompt of this length; with `room`, for more than the text."""
    shape = model.kv_shape
    memory = TextMemory(shape.layers, shape.kv_heads, shape.head_dim, len(ids) + room)
    attention = ReadingAttention(memory)
    for start in range(0, prompt, PROMPT_CHUNK):
        _compute(model, ids[start : min(start + PROMPT_CHUNK, prompt)], start, attention, None)
    memory.prompt = prompt
    return memory


def forced_logits(
    model: LoadedModel, ids: Sequence[int], memory: TextMemory, attention: SelectedAttention
) -> Tensor:
    """Logits of each token after the prompt: (tokens, vocabulary)."""
    logits = []
    for start in range(memory.prompt, len(ids), FORCED_CHUNK):
        chunk = ids[start : start + FORCED_CHUNK]
        logits.append(_compute(model, chunk, start, attention, attention.foresee))
    return torch.cat(logits)


def _compute(
    model: LoadedModel,
    chunk: Sequence[int],
    start: int,
    attention: LayerAttention[int],
    foresee: Callable[[int, Tensor], None] | None,
) -> Tensor:
    rows = torch.arange(len(chunk))
    with torch.inference_mode():
        return model.network(
            Packed(
                token_ids=torch.tensor(chunk),
                positions=rows + start,
                sample_rows=rows if foresee else rows[-1:],
                plan=start,
                carry=None,
                foresight=Foresight(rows, foresee) if foresee else None,
            ),
            attention,
        )
