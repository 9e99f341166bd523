"""Which pages single tokens read, arranged so that every page is read once.

A page that one token reads is read where it lies, all such pages in one pass. A page with several
readers is read for all of them at once, as in cascade inference (flashinfer.ai, 2024-02-02): their
queries are stacked, in passes of 2, 4, 8, … readers. A token's parts are put together afterwards.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.attention.tables import Integers, Tables

SPARSE: Final = 3  # pages spanned for each page read, from which on copying beats reading in place


class Entries(NamedTuple):
    """Pages that single tokens read: one entry for each pair of token and page."""

    rows: Integers  # (entries,) rising
    pages: Integers  # (entries,)
    lowest: Integers  # (entries,) lowest key of the page that the token sees, counted in the page
    highest: Integers  # (entries,) highest one; may lie outside the page, as may the lowest

    def pick(self, chosen: npt.NDArray[np.bool_]) -> "Entries":
        """Some of the entries."""
        return Entries(*(column[chosen] for column in self))


class Pass(NamedTuple):
    """Pages that are read for up to `readers` tokens each, whose queries are stacked.

    Every item is one page. Places without a reader see nothing.
    """

    readers: int
    pages: Integers | slice  # (items,)
    items: Integers  # (entries,) the item of each entry
    turns: Integers  # (entries,) which of the item's readers it is
    entries: Entries

    @property
    def size(self) -> int:
        """How many items there are."""
        return self.pages.stop if isinstance(self.pages, slice) else len(self.pages)


def list_entries(tables: Tables, rows: int, page_tokens: int, window: int | None) -> Entries:
    """What the first `rows` chunks, single tokens, read; a window spares the pages before it."""
    counts = tables.counts[:rows]
    row = np.repeat(np.arange(rows), counts)
    first = (np.arange(len(row)) - np.repeat(tables.offsets[:rows], counts)) * page_tokens
    index = tables.starts[:rows]
    low = np.minimum(tables.hidden[:rows], index)
    if window is not None:
        low = np.maximum(low, index - window + 1)
    entries = Entries(row, tables.pages[: len(row)], low[row] - first, index[row] - first)
    if window is None:
        return entries
    return entries.pick(first + page_tokens > (index - window + 1)[row])


def arrange(entries: Entries) -> list[tuple[Pass, Integers]]:
    """Passes over entries, each with the numbers of its entries."""
    readers = np.bincount(entries.pages)[entries.pages]
    if readers.max() == 1:
        return [(_alone(entries), np.arange(len(readers)))]
    width = 2 ** np.ceil(np.log2(readers)).astype(np.int64)
    passes = []
    for size in np.unique(width).tolist():
        chosen = width == size
        some = entries.pick(chosen)
        passes.append(
            (_alone(some) if size == 1 else _together(some, size), np.flatnonzero(chosen))
        )
    return passes


def _alone(entries: Entries) -> Pass:
    """Pages with one reader: in place, from page 0 on, unless that reads too much in vain."""
    count, span = len(entries.pages), int(entries.pages.max()) + 1
    turns = np.zeros(count, dtype=np.int64)
    if span <= SPARSE * count:
        return Pass(1, slice(0, span), entries.pages, turns, entries)
    return Pass(1, entries.pages, np.arange(count), turns, entries)


def _together(entries: Entries, readers: int) -> Pass:
    """Pages with several readers, who take their turns in order."""
    pages, items, counts = np.unique(entries.pages, return_inverse=True, return_counts=True)
    turns = np.empty(len(items), dtype=np.int64)
    turns[np.argsort(items, kind="stable")] = count_up(counts)
    return Pass(readers, pages, items, turns, entries)


def count_up(counts: Integers) -> Integers:
    """0, …, count - 1 of each count, one behind the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
