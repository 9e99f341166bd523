"""Finds text at the start of lines that keeps them from sharing what follows, such as a date or id.

Text is compared in windows of tokens. If lines agree in most windows not from their first token but
from a later one, what comes before could stand at the end of the prompt. What that would save is
counted by grouping the prompts without it.
"""

from typing import Final

import numpy as np
from msgspec import Struct

from gateway.jobs.prefix_tree import build_prefix_tree
from gateway.jobs.prompts import MIXER, Hashes, Ints, JobPrompts, PromptPages, Tokens

WINDOW: Final = 16  # tokens
SEARCHED: Final = 64  # first tokens of a window that are tried
LEAST_SHARE: Final = 0.05  # of all prompt tokens, to be saved in addition: less is not reported


class MovableText(Struct, frozen=True):
    """Lines differ from token `differs_at` (0 is the first) and agree from about `agrees_at` on.

    If what comes before `agrees_at` stood at the end, `would_save_tokens` of the prompts need not
    be computed, where `saves_tokens` need not as they are.
    """

    lines: int
    differs_at: int
    agrees_at: int
    saves_tokens: int
    would_save_tokens: int


def find_movable_text(prompts: JobPrompts, page_tokens: int) -> MovableText | None:
    """What keeps the prompts from sharing later text; None if moving it would save little."""
    heads = _heads(prompts)
    moved = np.flatnonzero(heads)
    if not len(moved):
        return None
    saves = _saved_tokens(prompts, page_tokens)
    would_save = _saved_tokens(JobPrompts(prompts.tokens, prompts.starts, heads), page_tokens)
    if would_save - saves < LEAST_SHARE * prompts.lengths.sum():
        return None
    return MovableText(
        lines=len(moved),
        differs_at=_differs_at(_first_tokens(prompts, moved)),
        agrees_at=int(np.median(heads[moved])),
        saves_tokens=saves,
        would_save_tokens=would_save,
    )


def _saved_tokens(prompts: JobPrompts, page_tokens: int) -> int:
    """Tokens that need not be computed if each shared page is computed once."""
    tree = build_prefix_tree(PromptPages.of(prompts, page_tokens))
    shared = tree.pages[tree.node_of].sum() - (tree.pages - tree.pages[tree.parents]).sum()
    return int(shared) * page_tokens


def _first_tokens(prompts: JobPrompts, chosen: Ints) -> Tokens:
    """The first SEARCHED + WINDOW tokens, 0 after the end: (len(chosen), SEARCHED + WINDOW)."""
    columns = np.arange(SEARCHED + WINDOW)
    at = prompts.begins[chosen][:, None] + columns
    found: Tokens = prompts.tokens[np.minimum(at, len(prompts.tokens) - 1)]
    found[columns >= prompts.lengths[chosen][:, None]] = 0
    return found


def _heads(prompts: JobPrompts) -> Ints:
    """The tokens before the window that most prompts have, the first such: (prompts,)."""
    chosen = np.flatnonzero(prompts.lengths >= WINDOW)
    heads = np.zeros(len(prompts), np.int64)
    if len(chosen):
        windows = _window_hashes(_first_tokens(prompts, chosen))
        inside = np.arange(SEARCHED + 1) <= (prompts.lengths[chosen] - WINDOW)[:, None]
        _, which, counts = np.unique(windows, return_inverse=True, return_counts=True)
        found = np.where(inside, counts[which].reshape(windows.shape), 0)
        heads[chosen] = found.argmax(axis=1)  # the first of equal ones: 0 for a unique prompt
    return heads


def _window_hashes(tokens: Tokens) -> Hashes:
    """A hash of each WINDOW of consecutive tokens in a row: polynomials modulo 2⁶⁴."""
    rows, columns = tokens.shape
    powers = np.cumprod(np.full(columns, MIXER))
    inverse = np.uint64(pow(int(MIXER), -1, 1 << 64))  # it is odd
    sums = np.zeros((rows, columns + 1), np.uint64)
    np.cumsum((tokens.astype(np.uint64) + np.uint64(1)) * powers, axis=1, out=sums[:, 1:])
    undo = np.cumprod(np.full(columns - WINDOW + 1, inverse), dtype=np.uint64)
    hashes: Hashes = (sums[:, WINDOW:] - sums[:, :-WINDOW]) * undo
    return hashes


def _differs_at(tokens: Tokens) -> int:
    """The first column from which on fewer than half the rows agree with the most common start."""
    agreeing = tokens
    for column in range(SEARCHED + WINDOW):
        values, counts = np.unique(agreeing[:, column], return_counts=True)
        if 2 * counts.max() < len(tokens):
            return column
        agreeing = agreeing[agreeing[:, column] == values[counts.argmax()]]
    return SEARCHED + WINDOW
