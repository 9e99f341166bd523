"""The tokens of a host layer that are on the device, and the difference to what a step wants."""

from typing import NamedTuple

import torch
from torch import Tensor


class Difference(NamedTuple):
    """What is to be fetched: `tokens` (n,) of `heads` (n,) into the slots (n,) of their heads."""

    heads: Tensor
    tokens: Tensor
    slots: Tensor


class StagedTokens:
    """The tokens of one layer that slots on the device hold, the same number for each key head.

    Its tensors are in host memory, where what is fetched is copied from.
    """

    def __init__(self, kv_heads: int) -> None:
        self._held = torch.empty((kv_heads, 0), dtype=torch.long)  # the token in each slot
        self._slot_of = torch.empty((kv_heads, 0), dtype=torch.long)  # of each token, or -1

    @property
    def slots(self) -> int:
        """The number of slots of each head."""
        return self._held.shape[1]

    def change(self, wanted: Tensor, tokens: int) -> Difference:
        """Hold exactly the wanted tokens, (kv_heads, slots), of a sequence of `tokens`.

        What is held already stays in its slot, unless there are fewer slots now.
        """
        kv_heads, slots = wanted.shape
        self._grow(tokens)
        found = self._slot_of.gather(1, wanted)
        kept = (found >= 0) & (found < slots)
        used = torch.zeros((kv_heads, slots + 1), dtype=torch.bool)
        used.scatter_(1, torch.where(kept, found, slots), True)
        used = used[:, :slots]
        held = torch.full((kv_heads, slots), -1)
        common = min(slots, self.slots)
        held[:, :common] = self._held[:, :common]
        self._slot_of.scatter_(1, self._held, -1)
        # Each head misses as many tokens as it has slots to fill, and both come head by head.
        heads, missing = (~kept).nonzero(as_tuple=True)
        free = (~used).nonzero(as_tuple=True)[1]
        fetched = wanted[heads, missing]
        held[heads, free] = fetched
        self._slot_of.scatter_(1, held, torch.arange(slots).expand(kv_heads, -1))
        self._held = held
        return Difference(heads, fetched, free)

    def _grow(self, tokens: int) -> None:
        """Know this number of tokens at least."""
        known = self._slot_of.shape[1]
        if tokens > known:
            kv_heads = self._slot_of.shape[0]
            more = torch.full((kv_heads, max(tokens - known, known)), -1)
            self._slot_of = torch.cat((self._slot_of, more), 1)
