"""What the engine asks of a network."""

from typing import Any, Protocol

from torch import Tensor

from engine.attention.interface import Attention
from engine.step.packing import Packed


class Network(Protocol):
    """A language model without its KV memory."""

    def __call__(self, packed: Packed, attention: Attention[Any]) -> Tensor:
        """Logits of the rows that a token is drawn from: (samples, vocabulary).

        The step's keys and values are kept by `attention` on the way.
        """
