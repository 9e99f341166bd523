"""Text vectors of user inputs, computed once per text."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.prediction.features.text_encoder import TextEncoder

Vectors = NDArray[np.float32]


class TextVectors:
    """The product's text encoder with a cache of vectors, in float16 as in history."""

    def __init__(self) -> None:
        self._encoder = TextEncoder()
        self._known: dict[str, NDArray[np.float16]] = {}

    def of(self, texts: Sequence[str]) -> Vectors:
        """The vector of each of n ≥ 1 texts, (n, TEXT_DIMS)."""
        for text in texts:
            if text not in self._known:
                self._known[text] = self._encoder.encode(text).astype(np.float16)
        return np.stack([self._known[text] for text in texts]).astype(np.float32)
