"""What of a sequence's keys and values is on the device, and what in host memory."""

from typing import Final, NamedTuple

import torch

from engine.kv.store import KvShape

RESIDENT_LAYERS: Final = 2  # the first layers attend to too many tokens to leave any out (§4.3)
FETCH_SHARE: Final = 0.2  # of a sequence's tokens that a step fetches at most (§5.3)
MIN_FETCHED: Final = 64  # tokens; a sequence of fewer is fetched whole


class OffloadLayout(NamedTuple):
    """The sizes of a model's offloaded keys and values; a page holds `page_tokens` tokens."""

    shape: KvShape
    page_tokens: int
    dtype: torch.dtype
    device: torch.device
    coded: bool = False  # codes of the keys are kept, for the prediction of what matters

    @property
    def resident_layers(self) -> int:
        """The number of layers that stay on the device."""
        return min(RESIDENT_LAYERS, self.shape.layers - 1)

    @property
    def host_layers(self) -> int:
        """The number of layers in host memory."""
        return self.shape.layers - self.resident_layers


def fetched_tokens(tokens: int) -> int:
    """How many of a sequence's tokens a speculative step fetches for each head of a layer."""
    return min(tokens, max(MIN_FETCHED, int(FETCH_SHARE * tokens)))
