"""Attention of steps with offloaded sequences.

While a layer is computed, a thread fetches what the next one needs.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from engine.attention.chunk import attend_context, chunk_mask
from engine.attention.interface import Attention, Context
from engine.attention.tables import as_tensor
from engine.offload.buffers import LayerBuffers
from engine.offload.layout import fetched_tokens
from engine.offload.prediction import PredictAttention, predict_attention
from engine.offload.selection import encode, scale_of
from engine.offload.sequence import OffloadedSequence
from engine.offload.speculation import SpeculativeBatch, SpeculativeToken
from engine.offload.staging import StagedLayer
from engine.offload.store import OffloadStore


class OffloadedChunk(NamedTuple):
    """A chunk of a sequence that attends to all its tokens; `rows` among the offloaded ones."""

    sequence: OffloadedSequence
    context: Context
    rows: slice


class OnDevice(NamedTuple):
    """The rows of a step that are attended on the device."""

    attention: Attention[Any]
    rows: Tensor
    plan: Any


class Fetched(NamedTuple):
    """What a layer attends to: by chunk, and of the speculative batch."""

    chunks: list[Tensor]
    batch: Tensor | None


class OffloadPlan:
    """How a step's rows are attended, some of them on the device and some offloaded.

    `foreseen_rows` are those whose queries `OffloadAttention.foresee` wants a layer early.
    `places`, (kv_heads, rows), are where the store keeps the offloaded rows.
    """

    def __init__(
        self,
        device: OnDevice | None,
        chunks: list[OffloadedChunk],
        batch: SpeculativeBatch | None,
        offloaded: tuple[Tensor, Any],
        places: Tensor,
    ) -> None:
        self.device = device
        self.chunks = chunks
        self.batch = batch
        self.offloaded_rows, self.resident = offloaded
        self.places = places
        self.foreseen_rows = None if batch is None else self.offloaded_rows[batch.rows]
        self.pending: dict[int, Future[Fetched]] = {}


class OffloadAttention:
    """Attention over the pages of two stores: one on the device, one mostly in host memory.

    The first is attended by what each plan is given, the first layers of offloaded sequences by
    `resident`.
    Of speculative sequences, for which the store keeps codes, each step fetches `fetched` (tokens
    before it) tokens for a key head of a layer, by what `predict` expects of them.
    `fetched_bytes` counts what was copied to the device since the start.
    """

    def __init__(
        self,
        resident: Attention[Any],
        store: OffloadStore,
        predict: PredictAttention = predict_attention,
        fetched: Callable[[int], int] = fetched_tokens,
    ) -> None:
        self._resident = resident
        self._store = store
        self._predict = predict
        self._fetched_tokens = fetched
        self._first = store.layout.resident_layers
        self._layers = store.layout.shape.layers
        self._host_buffers = LayerBuffers(store.layout.dtype, torch.device("cpu"))
        self._staged: dict[int, StagedLayer] = {}  # by layer, of the last step's batch
        # Its copies must not start threads of their own next to the model's.
        self._thread = ThreadPoolExecutor(1, "fetch", torch.set_num_threads, (1,))
        self.fetched_bytes = 0

    def close(self) -> None:
        """End its thread."""
        self._thread.shutdown()

    def release(self) -> None:
        """Free what speculative sequences had on the device: the next step has none of them."""
        self._staged = {}

    def plan_with(
        self,
        device: Attention[Any] | None,
        contexts: Sequence[Context],
        sequences: Sequence[OffloadedSequence | None],
    ) -> OffloadPlan:
        """Compute once per step what all its layers need.

        `sequences` has None for those on the device, which `device` attends; it is needed for them.
        """
        ends = np.cumsum([context.length for context in contexts])
        on_device, offloaded, places = [], [], []
        chunks: list[OffloadedChunk] = []
        batch: list[SpeculativeToken] = []
        next_row = 0
        for context, sequence, end in zip(contexts, sequences, ends.tolist(), strict=True):
            rows = range(end - context.length, end)
            if sequence is None:
                on_device.append((context, rows))
                continue
            offloaded.append((context, rows))
            stop = context.start + context.length
            places.append(self._store.rows(context.pages, context.start, stop))
            # The first chunk makes the choices that speculation needs.
            if sequence.speculative and context.length == 1 and context.start > 0:
                batch.append(SpeculativeToken(sequence, context, next_row))
            else:
                own = slice(next_row, next_row + context.length)
                chunks.append(OffloadedChunk(sequence, context, own))
            next_row += context.length
        if not batch:
            self.release()
        others = None
        if on_device:
            assert device is not None, "nothing attends what is on the device"
            others = OnDevice(device, *self._part(device, on_device))
        return OffloadPlan(
            others,
            chunks,
            self._batch_of(batch),
            self._part(self._resident, offloaded),
            torch.cat(places, 1),
        )

    def _batch_of(self, tokens: list[SpeculativeToken]) -> SpeculativeBatch | None:
        if not tokens:
            return None
        return SpeculativeBatch(tokens, self._store, self._fetched_tokens, self._predict)

    def foresee(self, plan: OffloadPlan, layer: int, query: Tensor) -> None:
        """Begin to fetch a layer, given its queries as predicted from the layer before.

        `query`, (foreseen rows, heads, dim), rotary embedding applied.
        """
        if layer >= self._first and plan.batch is not None:
            wanted = plan.batch.choose(layer, query)
            plan.pending[layer] = self._thread.submit(self._fetch, plan, layer, wanted)

    def attend(
        self,
        plan: OffloadPlan,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        window: int | None,
    ) -> Tensor:
        """Store a step's keys and values, then attend: (tokens, heads, dim) keeps its shape."""
        if plan.foreseen_rows is None:
            for needed in (layer, layer + 1):
                if self._first <= needed < self._layers and needed not in plan.pending:
                    plan.pending[needed] = self._thread.submit(self._fetch, plan, needed, None)
        rows = plan.offloaded_rows
        offloaded = self._attend_offloaded(
            plan, layer, (query[rows], key[rows], value[rows]), scale, window
        )
        if plan.device is None:
            return offloaded
        attention, device_rows, device_plan = plan.device
        out = torch.empty_like(query)
        out[rows] = offloaded
        own = query[device_rows], key[device_rows], value[device_rows]
        out[device_rows] = attention.attend(device_plan, layer, *own, scale=scale, window=window)
        return out

    def _part(
        self, attention: Attention[Any], part: list[tuple[Context, range]]
    ) -> tuple[Tensor, Any]:
        """Which rows of a step an attention computes, and its plan of them."""
        rows = np.concatenate([np.asarray(rows) for _, rows in part])
        plan = attention.plan([context for context, _ in part])
        return as_tensor(rows, self._store.layout.device), plan

    def _attend_offloaded(
        self,
        plan: OffloadPlan,
        layer: int,
        projected: tuple[Tensor, Tensor, Tensor],
        scale: float,
        window: int | None,
    ) -> Tensor:
        query, key, value = projected
        if layer < self._first:
            return self._resident.attend(
                plan.resident, layer, query, key, value, scale=scale, window=window
            )
        self._store.write(layer, plan.places, key, value)
        own = torch.cat((key, value), -1)  # (tokens, kv_heads, 2 · head_dim)
        out = torch.empty_like(query)
        fetched = plan.pending.pop(layer).result()
        for chunk, past in zip(plan.chunks, fetched.chunks, strict=True):
            rows = chunk.rows
            out[rows] = self._attend_chunk(
                chunk, layer, (query[rows], own[rows], past), scale, window
            )
        if plan.batch is not None and fetched.batch is not None:
            single = plan.batch.rows
            out[single] = plan.batch.attend(layer, query[single], own[single], fetched.batch, scale)
        return out

    def _attend_chunk(
        self,
        chunk: OffloadedChunk,
        layer: int,
        projected: tuple[Tensor, Tensor, Tensor],
        scale: float,
        window: int | None,
    ) -> Tensor:
        """Attend queries to all tokens up to each: their own keys and values, and the pages."""
        query, own, whole = projected
        start, length = chunk.context.start, chunk.context.length
        whole[:, start:] = own.transpose(0, 1)
        keys, values = whole.chunk(2, -1)
        if chunk.sequence.speculative:
            self._encode(chunk, layer, keys)
        if length == 1:
            if window is not None:
                keys, values = keys[:, -window:], values[:, -window:]
            return _attend_one(query, keys, values, scale)
        unwindowed = window is None or start + length <= window
        mask = None if unwindowed and not start else chunk_mask(start, length, 0, window)
        if mask is not None:
            mask = mask.to(query.device, query.dtype)
        return attend_context(query, keys, values, mask, scale)

    def _encode(self, chunk: OffloadedChunk, layer: int, keys: Tensor) -> None:
        """Keep codes of a prompt's keys so far; they are made again with each chunk."""
        scale = chunk.sequence.scales[layer] = scale_of(keys)
        places = self._store.rows(chunk.context.pages, 0, keys.shape[1])
        self._store.write_codes(layer, places, encode(keys, scale))

    def _fetch(self, plan: OffloadPlan, layer: int, wanted: Tensor | None) -> Fetched:
        """What each chunk attends to, its own tokens not set: (kv_heads, tokens, 2 · head_dim)."""
        with torch.inference_mode():
            chunks = self._fetch_all(plan.chunks, layer)
            if plan.batch is None or wanted is None:
                return Fetched(chunks, None)
            batch, size = plan.batch.fetch(layer, wanted, self._staged)
            self.fetched_bytes += size
            return Fetched(chunks, batch)

    def _fetch_all(self, chunks: Sequence[OffloadedChunk], layer: int) -> list[Tensor]:
        """The pages of each sequence, with room for its own tokens."""
        store, layout = self._store, self._store.layout
        stops = [chunk.context.start + chunk.context.length for chunk in chunks]
        sizes = [store.values_of(stop) for stop in stops]
        buffer = self._host_buffers.of(layer, sum(sizes))
        fetched = []
        for chunk, stop, size in zip(chunks, stops, sizes, strict=True):
            own, buffer = buffer[:size], buffer[size:]
            if chunk.context.start:
                whole = store.fetch_pages(layer, chunk.context.pages, stop, own)
                self.fetched_bytes += whole.numel() * whole.itemsize
            else:
                whole = store.as_pages(own, stop)
            fetched.append(whole.to(layout.device, non_blocking=True))
        return fetched


def _attend_one(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Attend one token, (1, heads, dim), over (kv_heads, tokens, dim), whatever their order."""
    grouped = query.unflatten(1, (len(keys), -1))
    return scaled_dot_product_attention(grouped, keys[None], values[None], scale=scale).reshape(
        query.shape
    )
