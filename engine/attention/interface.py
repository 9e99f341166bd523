"""What the engine asks of paged attention, whichever machine it runs on."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

from torch import Tensor

Plan = TypeVar("Plan")


class Context(NamedTuple):
    """One chunk of a step as attention sees it.

    Token i of a sequence lies in `pages[i // page_tokens]` at place `i % page_tokens`; `pages`
    cover at least `start + length` tokens. The first `padding` tokens are padding: what comes
    behind them does not see them.
    """

    start: int
    length: int
    pages: Sequence[int]
    padding: int = 0


class Attention(Protocol[Plan]):
    """Attention over the pages of one KvStore.

    The tokens of a step are packed one chunk behind the other, chunks of a single token first.
    Pages may be shared: several chunks of a step may read one page, and a chunk may read what
    another chunk of the same step writes, for all keys and values are written before any is read.
    """

    def plan(self, contexts: Sequence[Context]) -> Plan:
        """What every layer of a step needs, made once; touches no key or value."""

    def attend(
        self,
        plan: Plan,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        window: int | None,
    ) -> Tensor:
        """Keep a step's keys and values, then attend: (tokens, heads, dim) gives the same shape.

        `key` and `value` are (tokens, kv_heads, dim), rotary embedding applied. A query sees its
        own sequence up to itself, the last `window` tokens of it where that is given.
        """
