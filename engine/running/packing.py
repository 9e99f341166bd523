"""Packs a step's chunks into tensors, one after the other without padding."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from engine.attention.interface import Attention, Context
from engine.attention.tables import Int64Array, as_tensor, ranges
from engine.networks.interface import Foresight, Packed
from engine.offload.attention import OffloadAttention
from engine.step.chunks import Chunk


def pack(
    chunks: Sequence[Chunk],
    attention: Attention[Any],
    device: torch.device,
    offload: OffloadAttention | None = None,
) -> Packed:
    """The tensors of a step. Chunks of a single token must come before longer ones.

    `offload` attends the step if a sequence of it is in host memory, else `attention`.
    """
    contexts = [Context(c.start, c.length, c.sequence.pages, c.sequence.padding) for c in chunks]
    plan, foresight = _plan(chunks, contexts, attention, offload)
    starts, lengths, padding, samples_token = (
        np.array(column, dtype=np.int64)
        for column in zip(
            *((c.start, c.length, c.sequence.padding, c.samples_token) for c in chunks), strict=True
        )
    )
    ends = np.cumsum(lengths)
    carried = [
        (row, c.carry)
        for row, c in zip((ends - 1).tolist(), chunks, strict=True)
        if c.carry is not None
    ]
    return Packed(
        token_ids=as_tensor(_tokens(chunks), device),
        positions=as_tensor(np.maximum(ranges(starts - padding, lengths), 0), device),
        sample_rows=as_tensor(ends[samples_token > 0] - 1, device),
        plan=plan,
        carry=as_tensor(np.array(carried, dtype=np.int64).T.copy(), device) if carried else None,
        foresight=foresight,
    )


def _plan(
    chunks: Sequence[Chunk],
    contexts: Sequence[Context],
    attention: Attention[Any],
    offload: OffloadAttention | None,
) -> tuple[Any, Foresight | None]:
    """The attention's plan of a step, and what it wants of the network a layer early."""
    if offload is None:
        return attention.plan(contexts), None
    plan = offload.plan_with(attention, contexts, [c.sequence.offloaded for c in chunks])
    if plan.foreseen_rows is None:
        return plan, None
    return plan, Foresight(plan.foreseen_rows, partial(offload.foresee, plan))


def _tokens(chunks: Sequence[Chunk]) -> Int64Array:
    """The step's token ids; 0 where not known yet."""
    ids: list[int] = []
    for chunk in chunks:
        known_tokens = chunk.length - (chunk.carry is not None)
        if known_tokens == 1:
            ids.append(chunk.sequence.tokens[chunk.start])
        elif known_tokens:
            ids += chunk.sequence.tokens[chunk.start : chunk.start + known_tokens]
        if chunk.carry is not None:
            ids.append(0)
    return np.array(ids, dtype=np.int64)
