"""The inputs of the length model for n requests."""

from dataclasses import dataclass
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from gateway.prediction.features.features import INPUTS, USER_INPUT_COLUMN, Vector
from gateway.quantiles import Bools, Floats


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """Columns over the same n requests; a missing vector is a row of NaN.

    features (n, ≥ len(INPUTS)) and text (n, TEXT_DIMS), both float32; `sentences` (n, d) are the
    embeddings of the user inputs; `instruction_of` (n,) indexes those of the k distinct
    `instructions` (k, d).
    """

    apps: list[UUID]
    features: NDArray[np.float32]
    instructions: NDArray[np.float32]
    instruction_of: NDArray[np.intp]
    text: NDArray[np.float32]
    sentences: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.apps)

    @property
    def request(self) -> NDArray[np.float32]:
        """The features that the model reads, (n, len(INPUTS))."""
        return self.features[:, : len(INPUTS)]

    @property
    def log_uil(self) -> Floats:
        """log(1 + user input length), (n,)."""
        return self.features[:, USER_INPUT_COLUMN].astype(np.float64)

    @property
    def embedded(self) -> Bools:
        """Which requests have the embedding of their user input, (n,)."""
        return np.asarray(~np.isnan(self.sentences).any(axis=1))

    def rows(self, which: slice | NDArray[np.intp]) -> "ModelInputs":
        """A subset of the requests."""
        part = np.arange(len(self))[which]
        return ModelInputs(
            apps=[self.apps[row] for row in part.tolist()],
            features=self.features[part],
            instructions=self.instructions,
            instruction_of=self.instruction_of[part],
            text=self.text[part],
            sentences=self.sentences[part],
        )


def unpack_vector(stored: bytes | None, dims: int) -> Vector:
    """A vector stored as float16 bytes, (dims,) float32; NaN if it is None.

    ValueError if it has another size.
    """
    if stored is None:
        return np.full(dims, np.nan, dtype=np.float32)
    vector = np.frombuffer(stored, dtype=np.float16)
    if len(vector) != dims:
        raise ValueError(f"a vector of {len(vector)} numbers, {dims} expected")
    return vector.astype(np.float32)
