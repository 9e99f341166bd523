"""The sequences of a step that attend to a part of their tokens, computed together."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from engine.attention.interface import Context
from engine.attention.tables import as_tensor
from engine.offload.prediction import CodedKeys, PredictAttention
from engine.offload.selection import CodeScale, encode, likeliest
from engine.offload.sequence import OffloadedSequence
from engine.offload.staging import StagedLayer
from engine.offload.store import OffloadStore


class SpeculativeToken(NamedTuple):
    """The next token of a sequence, and its row among the step's offloaded ones."""

    sequence: OffloadedSequence
    context: Context
    row: int


class SpeculativeBatch:
    """The next tokens of n sequences, padded to the longest.

    `rows`, (n,), are those of the tokens among the step's offloaded ones. A layer's attention is
    computed in three calls: `choose` a layer early, `fetch` in another thread, `attend`.
    """

    def __init__(
        self,
        tokens: Sequence[SpeculativeToken],
        store: OffloadStore,
        fetched_tokens: Callable[[int], int],
        predict: PredictAttention,
    ) -> None:
        device = store.layout.device
        self._store = store
        self._predict = predict
        self._sequences = [token.sequence for token in tokens]
        starts = np.array([token.context.start for token in tokens])
        self._counts = np.array([fetched_tokens(start) for start in starts.tolist()])
        self._longest, self._most = int(starts.max()), int(self._counts.max())
        self.rows = torch.tensor([token.row for token in tokens], device=device)
        all_places = [
            store.rows(token.context.pages, 0, token.context.start + 1) for token in tokens
        ]
        self._own_places = as_tensor(np.stack([places[:, -1] for places in all_places]), device)
        # What a shorter one lacks repeats its tokens.
        self._host_places = np.stack(
            [
                np.pad(places[:, :-1], ((0, 0), (0, self._longest - start)), mode="wrap")
                for places, start in zip(all_places, starts.tolist(), strict=True)
            ]
        )
        self._places = as_tensor(self._host_places, device)
        self._lengths = as_tensor(starts, device)
        self._attended = None
        if self._counts.min() < self._most:
            # A sequence's own token comes before those that it has fetched.
            attended = np.arange(1 + self._most) <= self._counts[:, None, None, None]
            self._attended = as_tensor(attended, device)
        self._scales: dict[int, CodeScale] = {}

    def choose(self, layer: int, query: Tensor) -> Tensor:
        """The tokens to fetch for predicted queries, (n, heads, dim): (n, kv_heads, most)."""
        kv_heads = self._places.shape[1]
        codes = self._store.codes_of(layer)
        keys = CodedKeys(codes, self._places, self._lengths, self._scale(layer).step)
        attention = self._predict(keys, query.unflatten(1, (kv_heads, -1)))
        # Of a sequence that fetches fewer, the first are taken.
        return likeliest(attention, self._most, ranked=self._attended is not None)

    def fetch(
        self, layer: int, wanted: Tensor, layers: dict[int, StagedLayer]
    ) -> tuple[Tensor, int]:
        """Copy to the device what is chosen and was not there in the step before.

        `layers` has what was there. Returns keys and values, (n, kv_heads, 1 + most, 2 · head_dim),
        the first of them not set, and the bytes that were copied.
        """
        chosen = wanted.to("cpu").numpy()
        staged = layers.get(layer)
        if staged is None:
            host = self._store.host_layer(layer)
            like = host[:0].to(self._store.layout.device)
            staged = layers[layer] = StagedLayer(self._sequences, chosen.shape[1], like)
        staged.regroup(self._sequences, self._most)
        found = staged.tokens.change(chosen, self._counts, self._longest)
        rows = self._host_places[found.sequences, found.heads, found.tokens]
        fetched = self._store.fetch_rows(layer, torch.from_numpy(rows))
        into = (torch.from_numpy(each) for each in (found.sequences, found.heads, found.slots + 1))
        staged.content[tuple(into)] = fetched.to(staged.content.device)
        return staged.content[:, :, : 1 + self._most], fetched.numel() * fetched.itemsize

    def attend(
        self, layer: int, query: Tensor, own: Tensor, fetched: Tensor, scale: float
    ) -> Tensor:
        """Attend queries (n, heads, dim) to what was fetched and their own, same shape.

        `own`, (n, kv_heads, 2 · head_dim), are the tokens' keys and values; codes of the keys are
        kept.
        """
        fetched[:, :, 0] = own
        keys, values = fetched.chunk(2, -1)
        grouped = query.unflatten(1, (fetched.shape[1], -1))
        out = scaled_dot_product_attention(grouped, keys, values, self._attended, scale=scale)
        own_keys = own[..., None, : query.shape[-1]]
        codes = encode(own_keys, self._scales.pop(layer))
        self._store.write_codes(layer, self._own_places, codes[:, :, 0])
        return out.flatten(1, 2)

    def _scale(self, layer: int) -> CodeScale:
        """The scales of the sequences' codes, (n, kv_heads, dim)."""
        scales = [each.scales[layer] for each in self._sequences]
        found = CodeScale(
            torch.stack([each.low for each in scales]), torch.stack([each.step for each in scales])
        )
        self._scales[layer] = found
        return found
