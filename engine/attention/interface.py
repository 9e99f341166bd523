"""The interface of paged attention, independent of the device."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

from torch import Tensor

Plan = TypeVar("Plan")
Plan_contra = TypeVar("Plan_contra", contravariant=True)


class Context(NamedTuple):
    """One chunk of a step: tokens `start` … `start + length - 1` of a sequence.

    Token i of the sequence is in page `pages[i // page_tokens]` at offset `i % page_tokens`;
    `pages` cover at least `start + length` tokens. The first `padding` tokens are padding, which
    later tokens do not see.
    """

    start: int
    length: int
    pages: Sequence[int]
    padding: int = 0


class LayerAttention(Protocol[Plan_contra]):
    """The attention of a step's layers, as a network calls it."""

    def attend(
        self,
        plan: Plan_contra,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        window: int | None,
    ) -> Tensor:
        """Store a step's keys and values, then attend: (tokens, heads, dim) gives the same shape.

        `key` and `value` are (tokens, kv_heads, dim), rotary embedding applied. A query sees its
        own sequence up to itself; with `window`, only the last `window` tokens of that.
        """


class Attention(LayerAttention[Plan], Protocol[Plan]):
    """Attention over the pages of one KvStore.

    The tokens of a step are packed chunk after chunk, chunks of a single token first. Pages may be
    shared: several chunks may read one page, also one that another chunk of the same step writes,
    because all keys and values are written before any are read.
    """

    def plan(self, contexts: Sequence[Context]) -> Plan:
        """Compute once per step what all its layers need; accesses no keys or values."""
