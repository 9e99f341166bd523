"""The interface of a network."""

from typing import Any, Protocol

from torch import Tensor

from engine.attention.interface import Attention
from engine.step.packing import Packed


class Network(Protocol):
    """A language model without its KV memory."""

    def __call__(self, packed: Packed, attention: Attention[Any]) -> Tensor:
        """Logits of the rows to sample from: (samples, vocabulary).

        `attention` stores the step's keys and values.
        """
