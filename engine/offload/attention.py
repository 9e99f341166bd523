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
from engine.offload.layout import fetched_tokens
from engine.offload.selection import encode, group_attention, likeliest, predicted_scores, scale_of
from engine.offload.sequence import OffloadedSequence, StagedLayer
from engine.offload.staging import StagedTokens
from engine.offload.store import OffloadStore


class OffloadedChunk(NamedTuple):
    """A chunk of an offloaded sequence: tokens `start` … of it, `rows` among the offloaded rows.

    `places`, (kv_heads, start + length), are the store's rows. Of a `speculative` chunk, a single
    token, a part of the tokens before it is fetched; of any other, all.
    """

    sequence: OffloadedSequence
    context: Context
    rows: slice
    places: Tensor
    speculative: bool


class OnDevice(NamedTuple):
    """The rows of a step that are attended on the device."""

    attention: Attention[Any]
    rows: Tensor
    plan: Any


class OffloadPlan:
    """How a step's rows are attended, some of them on the device and some offloaded.

    `foreseen_rows` are those whose queries `OffloadAttention.foresee` wants a layer early.
    """

    def __init__(
        self,
        device: OnDevice | None,
        chunks: list[OffloadedChunk],
        offloaded: tuple[Tensor, Any],
    ) -> None:
        self.device = device
        self.chunks = chunks
        self.offloaded_rows, self.resident = offloaded
        speculative = [chunk.rows.start for chunk in chunks if chunk.speculative]
        self.speculative = [chunk for chunk in chunks if chunk.speculative]
        self.foreseen_rows = self.offloaded_rows[speculative] if speculative else None
        self.pending: dict[int, Future[list[Tensor]]] = {}


class OffloadAttention:
    """Attention over the pages of two stores: one on the device, one mostly in host memory.

    The first is attended by what each plan is given, the first layers of offloaded sequences by
    `resident`.
    Of speculative sequences, for which the store keeps codes, each step fetches `fetched` (tokens
    before it) tokens for a key head of a layer. `fetched_bytes` counts what was copied to the
    device since the start.
    """

    def __init__(
        self,
        resident: Attention[Any],
        store: OffloadStore,
        fetched: Callable[[int], int] = fetched_tokens,
    ) -> None:
        self._resident = resident
        self._store = store
        self._fetched_tokens = fetched
        self._first = store.layout.resident_layers
        self._layers = store.layout.shape.layers
        # Its copies must not start threads of their own next to the model's.
        self._thread = ThreadPoolExecutor(1, "fetch", torch.set_num_threads, (1,))
        self.fetched_bytes = 0

    def close(self) -> None:
        """End its thread."""
        self._thread.shutdown()

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
        on_device, offloaded, chunks = [], [], []
        next_row = 0
        for context, sequence, end in zip(contexts, sequences, ends.tolist(), strict=True):
            rows = range(end - context.length, end)
            if sequence is None:
                on_device.append((context, rows))
                continue
            offloaded.append((context, rows))
            chunks.append(
                OffloadedChunk(
                    sequence,
                    context,
                    slice(next_row, next_row + context.length),
                    self._store.rows(context.pages, 0, context.start + context.length),
                    # The first chunk makes the choices that speculation needs.
                    sequence.speculative and context.length == 1 and context.start > 0,
                )
            )
            next_row += context.length
        others = None
        if on_device:
            assert device is not None, "nothing attends what is on the device"
            others = OnDevice(device, *self._part(device, on_device))
        return OffloadPlan(others, chunks, self._part(self._resident, offloaded))

    def foresee(self, plan: OffloadPlan, layer: int, query: Tensor) -> None:
        """Begin to fetch a layer, given its queries as predicted from the layer before.

        `query`, (foreseen rows, heads, dim), rotary embedding applied.
        """
        if layer < self._first:
            return
        wanted = [
            self._choose(chunk, layer, query[index]) for index, chunk in enumerate(plan.speculative)
        ]
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
                    plan.pending[needed] = self._thread.submit(self._fetch, plan, needed, [])
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
        fetched = plan.pending.pop(layer).result()
        outputs = []
        for chunk, past in zip(plan.chunks, fetched, strict=True):
            rows = chunk.rows
            own = torch.cat((key[rows], value[rows]), -1).transpose(0, 1)  # (kv_heads, length, 2d)
            keys, values = torch.cat((past, own), 1).chunk(2, -1)
            start, length = chunk.context.start, chunk.context.length
            places = chunk.places[:, start:]
            self._store.write(layer, places, key[rows], value[rows])
            if length == 1:
                if window is not None and not chunk.speculative:
                    keys, values = keys[:, -window:], values[:, -window:]
                outputs.append(_attend_one(query[rows], keys, values, scale))
            else:
                whole = window is None or start + length <= window
                mask = None if whole and not start else chunk_mask(start, length, 0, window)
                if mask is not None:
                    mask = mask.to(query.device, query.dtype)
                outputs.append(attend_context(query[rows], keys, values, mask, scale))
            if chunk.sequence.speculative:
                self._encode(chunk, layer, keys)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _encode(self, chunk: OffloadedChunk, layer: int, keys: Tensor) -> None:
        """Keep codes of the chunk's keys; those of a prompt are made again with each chunk."""
        scales, places = chunk.sequence.scales, chunk.places
        if chunk.speculative:
            keys, places = keys[:, -1:], places[:, -1:]
        else:
            scales[layer] = scale_of(keys)
        self._store.write_codes(layer, places, encode(keys, scales[layer]))

    def _choose(self, chunk: OffloadedChunk, layer: int, query: Tensor) -> Tensor:
        """The tokens to fetch for a predicted query, (heads, dim): (kv_heads, tokens)."""
        start = chunk.context.start
        codes = self._store.codes_of(layer, chunk.places[:, :start])
        step = chunk.sequence.scales[layer].step
        scores = predicted_scores(query[None], codes, step, query.shape[-1] ** -0.5)
        return likeliest(group_attention(scores)[:, 0], self._fetched_tokens(start))

    def _fetch(self, plan: OffloadPlan, layer: int, wanted: list[Tensor]) -> list[Tensor]:
        """What each chunk attends to besides itself: (kv_heads, tokens, 2 · head_dim) each."""
        with torch.inference_mode():
            choices = iter(wanted)
            return [
                self._fetch_part(chunk, layer, next(choices))
                if chunk.speculative
                else self._fetch_all(chunk, layer)
                for chunk in plan.chunks
            ]

    def _fetch_all(self, chunk: OffloadedChunk, layer: int) -> Tensor:
        past = self._store.fetch_pages(layer, chunk.context.pages, chunk.context.start)
        self.fetched_bytes += past.numel() * past.itemsize
        return past.to(self._store.layout.device, non_blocking=True)

    def _fetch_part(self, chunk: OffloadedChunk, layer: int, wanted: Tensor) -> Tensor:
        """Fetch what the step before did not."""
        kv_heads, slots = wanted.shape
        staged = chunk.sequence.staged.get(layer)
        if staged is None:
            staged = chunk.sequence.staged[layer] = StagedLayer(StagedTokens(kv_heads))
        difference = staged.tokens.change(wanted.to("cpu"), chunk.context.start)
        fetched = self._store.fetch_rows(layer, chunk.places[difference.heads, difference.tokens])
        self.fetched_bytes += fetched.numel() * fetched.itemsize
        device = self._store.layout.device
        before = staged.content
        if before is None or before.shape[1] < slots:
            content = torch.empty(
                (kv_heads, slots + slots // 4, fetched.shape[1]), dtype=fetched.dtype, device=device
            )
            if before is not None:
                content[:, : before.shape[1]] = before
            staged.content = content
        assert staged.content is not None
        content = staged.content
        content[difference.heads.to(device), difference.slots.to(device)] = fetched.to(device)
        return content[:, :slots]


def _attend_one(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Attend one token, (1, heads, dim), over (kv_heads, tokens, dim), whatever their order."""
    kv_heads, _, dim = keys.shape
    grouped = query.reshape(kv_heads, -1, dim)
    return scaled_dot_product_attention(grouped, keys, values, scale=scale).reshape(query.shape)
