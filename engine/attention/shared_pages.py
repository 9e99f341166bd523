"""Which single tokens of a step begin with the same pages, as those with a common prefix do."""

from collections import Counter
from itertools import pairwise
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


class SharingGroup(NamedTuple):
    """The `rows` tokens from order[first] on, which all begin with the same `pages` pages."""

    first: int
    rows: int
    pages: int


class SharingGate(NamedTuple):
    """The least sharing that is worth looking for, and a pass of its own."""

    tokens: int  # of the shared pages
    rows: int  # that share them, 2 or more
    keys: int = 0  # that all rows with shared pages read together


def find_shared_pages(
    tables: PageTables, lowest: Int64Array, page_tokens: int, gate: SharingGate
) -> SharedPages | None:
    """The shared pages of the first chunks, all single tokens; None if none pass the gate.

    `lowest`, (rows,): the first key that each of them sees. Where that is not 0, nothing is shared.
    """
    rows = len(lowest)
    if rows < gate.rows or tables.starts[:rows].sum() < gate.keys:
        return None
    offsets, pages = tables.offsets[:rows], tables.pages
    # The page of the token itself is its own, even where it completes it.
    complete = np.where(lowest > 0, 0, tables.starts[:rows] // page_tokens)
    least = -(-gate.tokens // page_tokens)
    candidates = np.flatnonzero(complete >= least)
    if len(candidates) < gate.rows:
        return None
    # The page at this place is the same for all whose tables begin alike.
    groups = pages[offsets[candidates] + least - 1].tolist()
    sizes = Counter(groups)
    members = candidates[[sizes[group] >= gate.rows for group in groups]]
    if not len(members) or complete[members].sum() * page_tokens < gate.keys:
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


def disjoint_groups(shared: SharedPages, gate_rows: int) -> list[SharingGroup]:
    """Groups of at least `gate_rows` (2 or more) tokens, each token in one at most.

    Of tokens that begin alike, all are a group or the groups among them are, whichever saves more
    page reads.
    """
    starts = np.flatnonzero(shared.leading == 0)
    runs = pairwise([*starts.tolist(), len(shared.order)])
    return [group for run in runs for group in _best_groups(shared.leading, *run, gate_rows)]


def _best_groups(leading: Int64Array, start: int, end: int, gate_rows: int) -> list[SharingGroup]:
    """The tokens `start` … `end` - 1 as a group, or the groups of those that share more pages."""
    if end - start < gate_rows:
        return []
    within = leading[start + 1 : end]
    pages = int(within.min())
    cuts = [start, *(start + 1 + np.flatnonzero(within == pages)).tolist(), end]
    parts = [group for cut in pairwise(cuts) for group in _best_groups(leading, *cut, gate_rows)]
    whole = SharingGroup(start, end - start, pages)
    return parts if sum(map(_saved, parts)) > _saved(whole) else [whole]


def _saved(group: SharingGroup) -> int:
    return (group.rows - 1) * group.pages


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
