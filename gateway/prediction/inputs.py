"""What the model reads of n requests."""

from dataclasses import dataclass
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from gateway.prediction.features import INPUTS, USER_INPUT_COLUMN, Vector

EMBEDDING_DIMS = 384  # of all-MiniLM-L6-v2


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Columns over the same n requests; a row of NaN stands for a missing embedding.

    features (n, ≥ len(INPUTS)) float32, embeddings (n, 384) float32; `instruction_of` (n,) picks
    a row of the k distinct `instructions` (k, 384).
    """

    apps: list[UUID]
    features: NDArray[np.float32]
    instructions: NDArray[np.float32]
    instruction_of: NDArray[np.intp]
    embeddings: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.apps)

    @property
    def request(self) -> NDArray[np.float32]:
        """The features that are inputs of the model, (n, len(INPUTS))."""
        return self.features[:, : len(INPUTS)]

    @property
    def log_uil(self) -> NDArray[np.float64]:
        """log(1 + user input length), (n,)."""
        return self.features[:, USER_INPUT_COLUMN].astype(np.float64)

    def rows(self, start: int, stop: int) -> "Inputs":
        """The requests from `start` to before `stop`."""
        part = slice(start, stop)
        return Inputs(
            apps=self.apps[part],
            features=self.features[part],
            instructions=self.instructions,
            instruction_of=self.instruction_of[part],
            embeddings=self.embeddings[part],
        )


def embedding_from(stored: bytes | None) -> Vector:
    """An embedding kept as float16 bytes, (384,) float32; NaN where there is none.

    ValueError if it is of another size.
    """
    if stored is None:
        return np.full(EMBEDDING_DIMS, np.nan, dtype=np.float32)
    vector = np.frombuffer(stored, dtype=np.float16)
    if len(vector) != EMBEDDING_DIMS:
        raise ValueError(f"an embedding of {len(vector)} numbers, {EMBEDDING_DIMS} expected")
    return vector.astype(np.float32)
