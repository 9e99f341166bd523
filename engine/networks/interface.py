"""The interface of a network."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from engine.attention.interface import LayerAttention


class Foresight(NamedTuple):
    """Rows whose queries are wanted a layer early: `foresee` is called with a layer and these.

    They are computed from what the layer before gives to its feed-forward part, (rows, heads, dim),
    rotary embedding applied.
    """

    rows: Tensor  # (rows,)
    foresee: Callable[[int, Tensor], None]


class Packed(NamedTuple):
    """A step as input of a network.

    `carry`: rows whose token the host does not know yet, and the row of the previous step's samples
    for each. A network that cannot say queries early ignores `foresight`.
    """

    token_ids: Tensor  # (tokens,)
    positions: Tensor  # (tokens,)
    sample_rows: Tensor  # (samples,) rows to sample a next token from
    plan: Any  # specific to the attention
    carry: Tensor | None  # (2, carried)
    foresight: Foresight | None = None


class Network(Protocol):
    """A language model without its KV memory."""

    def __call__(self, packed: Packed, attention: LayerAttention[Any]) -> Tensor:
        """Logits of the rows to sample from: (samples, vocabulary).

        `attention` stores the step's keys and values.
        """
