"""Which single tokens of a step begin with the same pages, as those with a common prefix do."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.attention.tables import Int64Array, PageTables


class SharedPages(NamedTuple):
    """An order of the single tokens in which those whose page tables begin alike are adjacent.

    Token `order[n]` begins with the same `leading[n]` pages as `order[n - 1]`; both see them whole.
    """

    order: Int64Array  # (rows,)
    leading: Int64Array  # (rows,)


class SharingGate(NamedTuple):
    """The least sharing that is worth a pass of its own."""

    tokens: int  # of the shared pages
    rows: int  # that share them


def find_shared_pages(
    tables: PageTables, lowest: Int64Array, page_tokens: int, gate: SharingGate
) -> SharedPages | None:
    """The shared pages of the first chunks, all single tokens; None if none pass the gate.

    `lowest`, (rows,): the first key that each of them sees. Where that is not 0, nothing is shared.
    """
    rows = len(lowest)
    offsets, pages = tables.offsets[:rows], tables.pages
    complete = np.where(lowest > 0, 0, (tables.starts[:rows] + 1) // page_tokens)
    least = -(-gate.tokens // page_tokens)
    # The page at this place is the same for all whose tables begin alike.
    candidates = np.flatnonzero(complete >= least)
    if len(candidates) < gate.rows:
        return None
    _, groups, sizes = np.unique(
        pages[offsets[candidates] + least - 1], return_inverse=True, return_counts=True
    )
    members = candidates[(sizes >= gate.rows)[groups]]
    if not len(members):
        return None
    beginnings = _beginnings(pages, offsets[members], complete[members])
    keys = [beginning.tobytes() for beginning in beginnings]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__))
    leading = _leading(beginnings[order], complete[members][order])
    leading[leading < least] = 0
    others = np.ones(rows, dtype=np.bool_)
    others[members] = False
    return SharedPages(
        np.concatenate([members[order], np.flatnonzero(others)]),
        np.concatenate([leading, np.zeros(rows - len(members), dtype=np.int64)]),
    )


def _beginnings(pages: Int64Array, offsets: Int64Array, complete: Int64Array) -> Int64Array:
    """The complete pages of each row, (rows, most of a row), with -1 beyond them."""
    place = np.arange(complete.max())
    table = pages[np.minimum(offsets[:, None] + place, len(pages) - 1)]
    beginnings: Int64Array = np.where(place < complete[:, None], table, -1)
    return beginnings


def _leading(beginnings: Int64Array, complete: Int64Array) -> Int64Array:
    """With how many equal pages each row and the one before it begin: (rows,)."""
    differs: npt.NDArray[np.bool_] = beginnings[1:] != beginnings[:-1]
    width = beginnings.shape[1]
    common = np.where(differs.any(1), differs.argmax(1), width)
    return np.append(0, np.minimum(common, np.minimum(complete[1:], complete[:-1])))
