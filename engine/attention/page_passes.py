"""Which pages single tokens read, arranged so that every page is read once.

A page that one token reads is read where it lies, all such pages in one pass. A page with several
readers is read for all of them at once, as in cascade inference (flashinfer.ai, 2024-02-02): their
queries are stacked, in passes of 2, 4, 8, … readers. A token's parts are put together afterwards.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.attention.tables import Int64Array, PageTables

MAX_SPAN_RATIO: Final = (
    3  # pages spanned for each page read, from which on copying beats reading in place
)


class Entries(NamedTuple):
    """Pages that single tokens read: one entry for each pair of token and page."""

    rows: Int64Array  # (entries,) rising
    pages: Int64Array  # (entries,)
    lowest: Int64Array  # (entries,) lowest key of the page that the token sees, counted in the page
    highest: Int64Array  # (entries,) highest one; may lie outside the page, as may the lowest

    def select(self, selected_mask: npt.NDArray[np.bool_]) -> "Entries":
        """Some of the entries."""
        return Entries(*(column[selected_mask] for column in self))


class PagePass(NamedTuple):
    """Pages that are read for up to `readers` tokens each, whose queries are stacked.

    Every item is one page. Places without a reader see nothing.
    """

    readers: int
    pages: Int64Array | slice  # (items,)
    items: Int64Array  # (entries,) the item of each entry
    reader_slots: Int64Array  # (entries,) which of the item's readers it is
    entries: Entries

    @property
    def size(self) -> int:
        """How many items there are."""
        return self.pages.stop if isinstance(self.pages, slice) else len(self.pages)


def list_entries(tables: PageTables, rows: int, page_tokens: int, window: int | None) -> Entries:
    """What the first `rows` chunks, single tokens, read; a window spares the pages before it."""
    counts = tables.counts[:rows]
    row = np.repeat(np.arange(rows), counts)
    first = (np.arange(len(row)) - np.repeat(tables.offsets[:rows], counts)) * page_tokens
    index = tables.starts[:rows]
    lowest = np.minimum(tables.padding[:rows], index)
    if window is not None:
        lowest = np.maximum(lowest, index - window + 1)
    entries = Entries(row, tables.pages[: len(row)], lowest[row] - first, index[row] - first)
    if window is None:
        return entries
    return entries.select(first + page_tokens > (index - window + 1)[row])


def group_by_readers(entries: Entries) -> list[tuple[PagePass, Int64Array]]:
    """Passes over entries, each with the numbers of its entries."""
    readers = np.bincount(entries.pages)[entries.pages]
    if readers.max() == 1:
        return [(_unshared_pass(entries), np.arange(len(readers)))]
    width = 2 ** np.ceil(np.log2(readers)).astype(np.int64)
    passes = []
    for size in np.unique(width).tolist():
        selected_mask = width == size
        selected = entries.select(selected_mask)
        passes.append(
            (
                _unshared_pass(selected) if size == 1 else _shared_pass(selected, size),
                np.flatnonzero(selected_mask),
            )
        )
    return passes


def _unshared_pass(entries: Entries) -> PagePass:
    """Pages with one reader: in place, from page 0 on, unless that reads too much in vain."""
    count, span = len(entries.pages), int(entries.pages.max()) + 1
    reader_slots = np.zeros(count, dtype=np.int64)
    if span <= MAX_SPAN_RATIO * count:
        return PagePass(1, slice(0, span), entries.pages, reader_slots, entries)
    return PagePass(1, entries.pages, np.arange(count), reader_slots, entries)


def _shared_pass(entries: Entries, readers: int) -> PagePass:
    """Pages with several readers, who take their turns in order."""
    pages, items, counts = np.unique(entries.pages, return_inverse=True, return_counts=True)
    reader_slots = np.empty(len(items), dtype=np.int64)
    reader_slots[np.argsort(items, kind="stable")] = local_indices(counts)
    return PagePass(readers, pages, items, reader_slots, entries)


def local_indices(counts: Int64Array) -> Int64Array:
    """0, …, count - 1 of each count, one behind the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
