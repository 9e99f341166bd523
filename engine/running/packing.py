"""Packs a step's chunks into tensors, one after the other without padding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine.attention.interface import Attention, Context
from engine.attention.tables import Int64Array, as_tensor, ranges
from engine.networks.interface import Packed
from engine.step.chunks import Chunk


def pack(chunks: Sequence[Chunk], attention: Attention[Any], device: torch.device) -> Packed:
    """The tensors of a step. Chunks of a single token must come before longer ones."""
    contexts = [Context(c.start, c.length, c.sequence.pages, c.sequence.padding) for c in chunks]
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
        plan=attention.plan(contexts),
        carry=as_tensor(np.array(carried, dtype=np.int64).T.copy(), device) if carried else None,
    )


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
