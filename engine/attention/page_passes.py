"""Groups the pages that single tokens read into passes, so that every page is read once.

Pages with one reader are read in place, all in one pass. Pages with several readers are read for
all of them at once, as in cascade inference (flashinfer.ai, 2024-02-02): the queries are stacked,
in passes of 2, 4, 8, … readers. The partial results of a token are combined afterwards.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.attention.tables import Int64Array, PageTables

# Pages spanned per page read, up to which reading in place beats copying.
MAX_SPAN_RATIO: Final = 3


class Entries(NamedTuple):
    """One entry for each pair of a single token and a page that it reads."""

    rows: Int64Array  # (entries,) the token, ascending
    pages: Int64Array  # (entries,)
    lowest: Int64Array  # (entries,) first visible key, as an offset into the page
    highest: Int64Array  # (entries,) last visible key; both may lie outside the page

    def select(self, mask: npt.NDArray[np.bool_]) -> "Entries":
        """The entries where the mask, (entries,), is true."""
        return Entries(*(column[mask] for column in self))


class PagePass(NamedTuple):
    """Pages that are each read for up to `readers` tokens, whose queries are stacked.

    Every item is one page. Queries in unused reader slots are fully masked.
    """

    readers: int
    pages: Int64Array | slice  # (items,)
    items: Int64Array  # (entries,) the item of each entry
    reader_slots: Int64Array  # (entries,) the reader slot of each entry within its item
    entries: Entries

    @property
    def size(self) -> int:
        """The number of items."""
        return self.pages.stop if isinstance(self.pages, slice) else len(self.pages)


def list_entries(tables: PageTables, rows: int, page_tokens: int, window: int | None) -> Entries:
    """The entries of the first `rows` chunks, all single tokens, without pages before a window."""
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
    """Page passes over all entries, each with the indices of its entries."""
    readers = np.bincount(entries.pages)[entries.pages]
    if readers.max() == 1:
        return [(_unshared_pass(entries), np.arange(len(readers)))]
    width = 2 ** np.ceil(np.log2(readers)).astype(np.int64)
    passes = []
    for size in np.unique(width).tolist():
        mask = width == size
        selected = entries.select(mask)
        page_pass = _unshared_pass(selected) if size == 1 else _shared_pass(selected, size)
        passes.append((page_pass, np.flatnonzero(mask)))
    return passes


def _unshared_pass(entries: Entries) -> PagePass:
    """Pages with one reader: read in place from page 0 on, unless that reads too much unused."""
    count, span = len(entries.pages), int(entries.pages.max()) + 1
    reader_slots = np.zeros(count, dtype=np.int64)
    if span <= MAX_SPAN_RATIO * count:
        return PagePass(1, slice(0, span), entries.pages, reader_slots, entries)
    return PagePass(1, entries.pages, np.arange(count), reader_slots, entries)


def _shared_pass(entries: Entries, readers: int) -> PagePass:
    """Pages with several readers, which take reader slots in order."""
    pages, items, counts = np.unique(entries.pages, return_inverse=True, return_counts=True)
    reader_slots = np.empty(len(items), dtype=np.int64)
    reader_slots[np.argsort(items, kind="stable")] = local_indices(counts)
    return PagePass(readers, pages, items, reader_slots, entries)


def local_indices(counts: Int64Array) -> Int64Array:
    """0, …, count - 1 for each count, concatenated."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
