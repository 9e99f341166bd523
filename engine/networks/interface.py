"""The interface of a network."""

from typing import Any, NamedTuple, Protocol

from torch import Tensor

from engine.attention.interface import Attention


class Packed(NamedTuple):
    """A step as input of a network.

    `carry`: rows whose token the host does not know yet, and the row of the previous step's samples
    for each.
    """

    token_ids: Tensor  # (tokens,)
    positions: Tensor  # (tokens,)
    sample_rows: Tensor  # (samples,) rows to sample a next token from
    plan: Any  # specific to the attention
    carry: Tensor | None  # (2, carried)


class Network(Protocol):
    """A language model without its KV memory."""

    def __call__(self, packed: Packed, attention: Attention[Any]) -> Tensor:
        """Logits of the rows to sample from: (samples, vocabulary).

        `attention` stores the step's keys and values.
        """
