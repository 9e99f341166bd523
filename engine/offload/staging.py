"""The tokens of a host layer that are on the device, and the difference to what a step wants."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Indices = NDArray[np.int64]

NOWHERE = -1  # no slot, or no token


class Difference(NamedTuple):
    """What is to be fetched, (m,) each: tokens of sequences into slots of heads."""

    sequences: Indices
    heads: Indices
    tokens: Indices
    slots: Indices


class StagedTokens:
    """Which tokens of n sequences the slots of one layer hold, for each key head."""

    def __init__(self, sequences: int, kv_heads: int) -> None:
        size = sequences, kv_heads
        self._held = np.empty((*size, 0), dtype=np.int64)  # the token in each slot
        # The slot of each token; a last column is written for slots that hold none.
        self._slot_of = np.full((*size, 1), NOWHERE)
        self._at = np.arange(sequences)[:, None, None], np.arange(kv_heads)[:, None]

    @property
    def slots(self) -> int:
        """The number of slots of a head, some of which may hold nothing."""
        return self._held.shape[2]

    def change(self, wanted: Indices, counts: Indices, tokens: int) -> Difference:
        """Hold exactly the first `counts` (n,) of the wanted tokens, (n, kv_heads, slots).

        No sequence has more than `tokens`. What is held already stays in its slot, unless a
        sequence has fewer slots now.
        """
        slots = wanted.shape[2]
        self._grow(tokens)
        own = (np.arange(slots) < counts[:, None])[:, None]  # (n, 1, slots)
        found = self._slot_of[(*self._at, wanted)]
        kept = (found >= 0) & (found < counts[:, None, None]) & own
        free = np.zeros((*wanted.shape[:2], slots + 1), dtype=np.bool_)
        free[..., :slots] = own
        free[(*self._at, np.where(kept, found, slots))] = False
        held = np.full_like(wanted, NOWHERE)
        common = min(slots, self.slots)
        held[..., :common] = np.where(own[..., :common], self._held[..., :common], NOWHERE)
        self._slot_of[(*self._at, self._held)] = NOWHERE
        # Each head misses as many tokens as it has slots to fill, and both come in one order.
        sequences, heads, missing = (own & ~kept).nonzero()
        filled = free[..., :slots].nonzero()[2]
        fetched = wanted[sequences, heads, missing]
        held[sequences, heads, filled] = fetched
        self._slot_of[(*self._at, held)] = np.arange(slots)
        self._held = held
        return Difference(sequences, heads, fetched, filled)

    def regrouped(self, order: Sequence[int | None]) -> "StagedTokens":
        """The state of these sequences, by their numbers here; None holds nothing yet."""
        kv_heads, slots = self._held.shape[1:]
        new = StagedTokens(len(order), kv_heads)
        new._held = np.full((len(order), kv_heads, slots), NOWHERE)
        new._slot_of = np.full((len(order), kv_heads, self._slot_of.shape[2]), NOWHERE)
        for number, before in enumerate(order):
            if before is not None:
                new._held[number] = self._held[before]
                new._slot_of[number] = self._slot_of[before]
        return new

    def _grow(self, tokens: int) -> None:
        """Know this number of tokens at least."""
        known = self._slot_of.shape[2] - 1
        if tokens > known:
            grown = np.full((*self._slot_of.shape[:2], max(tokens, 2 * known) + 1), NOWHERE)
            grown[..., :known] = self._slot_of[..., :known]
            self._slot_of = grown


class StagedLayer:
    """What sequences have of one layer on the device.

    `content`, (n, kv_heads, 1 + slots, 2 · head_dim), is the place of each sequence's own token,
    and what its slots hold. It is finite everywhere.
    """

    def __init__(self, sequences: Sequence[object], kv_heads: int, like: Tensor) -> None:
        self._sequences = list(sequences)
        self.tokens = StagedTokens(len(sequences), kv_heads)
        self.content = like.new_zeros((len(sequences), kv_heads, 1, like.shape[-1]))

    def regroup(self, sequences: Sequence[object], slots: int) -> None:
        """Go on with these sequences, and room for `slots` slots; new ones have nothing yet."""
        known = {id(each): number for number, each in enumerate(self._sequences)}
        order = [known.get(id(each)) for each in sequences]
        same = order == list(range(len(self._sequences)))
        if not same:
            self.tokens = self.tokens.regrouped(order)
            self._sequences = list(sequences)
        if same and self.content.shape[2] > slots:
            return
        before = self.content
        room = max(1 + slots + slots // 4, before.shape[2])
        content = before.new_zeros((len(sequences), before.shape[1], room, before.shape[3]))
        moved = [(new, old) for new, old in enumerate(order) if old is not None]
        if moved:
            new, old = (
                torch.tensor(each, device=before.device) for each in zip(*moved, strict=True)
            )
            content[new, :, : before.shape[2]] = before[old]
        self.content = content
