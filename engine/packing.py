"""One step's chunks as tensors, packed one behind the other without padding."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.composer import Chunk

Integers = npt.NDArray[np.int64]
UNSEEN: Final = 2**31  # a position beyond every query's: nobody reads such a page
SPARSE: Final = 2  # pages spanned for each page read, from which on copying beats reading in place


class Prefill(NamedTuple):
    """A chunk of several tokens: its rows of the step, its first position, its page table."""

    rows: slice
    start: int
    pages: Tensor  # (pages of the chunk's context,)


class Decode(NamedTuple):
    """All chunks of a single token, rows 0 … rows - 1 of the step, and the pages they read.

    Where `pages` is None the first `span` pages of the pool are read in place; those among them
    that no row owns are masked by their `first`.
    """

    rows: int
    span: int
    pages: Tensor | None  # (span,) page ids
    owner: Tensor  # (span,) row that reads the page
    first: Tensor  # (span,) position of the page's first token, or UNSEEN
    positions: Tensor  # (rows,) position of each row's token


class Packed(NamedTuple):
    """A step as the model takes it."""

    token_ids: Tensor  # (1, tokens)
    positions: Tensor  # (1, tokens)
    pages: Tensor  # (tokens,) page that takes the token's keys and values
    offsets: Tensor  # (tokens,) place within the page
    last: Tensor  # (samples,) rows from which a next token is drawn
    decode: Decode | None
    prefills: list[Prefill]


def pack(chunks: Sequence[Chunk], page_tokens: int, device: torch.device) -> Packed:
    """The tensors of a step. Chunks of one token must come before longer ones."""
    spans = [np.arange(chunk.start, chunk.start + chunk.length) for chunk in chunks]
    tables = [_table(chunk, page_tokens) for chunk in chunks]
    positions = np.concatenate(spans)
    pages = np.concatenate([t[s // page_tokens] for t, s in zip(tables, spans, strict=True)])
    ends = np.cumsum([chunk.length for chunk in chunks])
    singles = sum(chunk.length == 1 for chunk in chunks)
    decode = _decode(tables[:singles], positions[:singles], page_tokens, device)
    prefills = [
        Prefill(slice(end - chunk.length, end), chunk.start, _put(table, device))
        for chunk, table, end in zip(chunks, tables, ends.tolist(), strict=True)
        if chunk.length > 1
    ]
    return Packed(
        token_ids=_put(np.concatenate([_tokens(chunk) for chunk in chunks]), device)[None],
        positions=_put(positions, device)[None],
        pages=_put(pages, device),
        offsets=_put(positions % page_tokens, device),
        last=_put(ends[[chunk.completes for chunk in chunks]] - 1, device),
        decode=decode if singles else None,
        prefills=prefills,
    )


def _decode(
    tables: list[Integers], positions: Integers, page_tokens: int, device: torch.device
) -> Decode | None:
    if not tables:
        return None
    read = np.concatenate(tables)
    owner = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    first = np.concatenate([np.arange(len(table)) for table in tables]) * page_tokens
    span = int(read.max()) + 1
    in_place = span <= SPARSE * len(read)
    if in_place:
        owner, first = _spread(read, owner, span, 0), _spread(read, first, span, UNSEEN)
    return Decode(
        rows=len(tables),
        span=span if in_place else len(read),
        pages=None if in_place else _put(read, device),
        owner=_put(owner, device),
        first=_put(first, device),
        positions=_put(positions, device),
    )


def _spread(places: Integers, values: Integers, size: int, rest: int) -> Integers:
    spread = np.full(size, rest, dtype=np.int64)
    spread[places] = values
    return spread


def _tokens(chunk: Chunk) -> Integers:
    tokens = chunk.sequence.tokens[chunk.start : chunk.start + chunk.length]
    return np.asarray(tokens, dtype=np.int64)


def _table(chunk: Chunk, page_tokens: int) -> Integers:
    """The pages that hold the tokens up to the chunk's last."""
    used = -(-(chunk.start + chunk.length) // page_tokens)
    return np.asarray(chunk.sequence.pages[:used], dtype=np.int64)


def _put(values: Integers, device: torch.device) -> Tensor:
    return torch.from_numpy(values).to(device, non_blocking=True)
