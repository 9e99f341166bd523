"""A fitted predictor as bytes: plain arrays and LightGBM text, checksummed, never pickle.

Layout: MAGIC, the SHA-256 of the rest (32 bytes), then one `Artefact` as MessagePack.
"""

import hashlib
from typing import Final
from uuid import UUID

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from gateway.errors import PredictorRefused
from gateway.prediction.calibration import Scores
from gateway.prediction.features import FEATURE_VERSION, INPUTS
from gateway.prediction.messages import LEVELS

MAGIC: Final = b"LMAASP1\n"
DIGEST_BYTES: Final = 32


class Matrix(Struct, frozen=True):
    """A float32 matrix, row by row."""

    rows: int
    columns: int
    data: bytes

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> "Matrix":
        """Pack a two-dimensional array."""
        rows, columns = values.shape
        return cls(rows, columns, values.astype(np.float32).tobytes())

    def array(self) -> NDArray[np.float32]:
        """The (rows, columns) array. ValueError if the data is of another size."""
        return np.frombuffer(self.data, dtype=np.float32).reshape(self.rows, self.columns)


class Axes(Struct, frozen=True):
    """A fitted compression of embeddings: mean (1, d) and basis (d, kept)."""

    mean: Matrix
    basis: Matrix


class Line(Struct, frozen=True):
    """Log length = intercept + slope · log(1 + UIL), give or take `spread`; seen on `rows`."""

    intercept: float
    slope: float
    spread: float
    rows: int


class Artefact(Struct, frozen=True, kw_only=True):
    """All of one version. `trees` are LightGBM texts, one for each of `levels`.

    `pooled_levels` are the quantiles of the scaled residual around the pooled line, for an app
    that was not seen in training.
    """

    model: str
    model_hash: str
    feature_version: int
    inputs: list[str]
    levels: list[float]
    pooled: Line
    pooled_levels: list[float]
    lines: dict[UUID, Line]
    instruction_axes: Axes
    user_axes: Axes
    trees: list[str]
    scores: Scores


def encode(artefact: Artefact) -> bytes:
    """The bytes stored with the version."""
    body = msgspec.msgpack.encode(artefact)
    return MAGIC + hashlib.sha256(body).digest() + body


def checksum(stored: bytes) -> bytes:
    """SHA-256 of the stored bytes, kept in a column beside them."""
    return hashlib.sha256(stored).digest()


def decode(stored: bytes, *, model_hash: str) -> Artefact:
    """The version for the model with this hash.

    PredictorRefused if it is damaged, of another model, or of another feature version.
    """
    head = len(MAGIC) + DIGEST_BYTES
    digest, body = stored[len(MAGIC) : head], stored[head:]
    if not stored.startswith(MAGIC):
        raise PredictorRefused("these bytes are no predictor: they do not begin with its mark")
    if hashlib.sha256(body).digest() != digest:
        raise PredictorRefused("the predictor is damaged: its checksum does not match")
    try:
        artefact = msgspec.msgpack.decode(body, type=Artefact)
    except msgspec.DecodeError as error:
        raise PredictorRefused(f"the predictor cannot be read: {error}") from error
    if artefact.model_hash != model_hash:
        raise PredictorRefused(
            f"the predictor was trained for model hash {artefact.model_hash}, not {model_hash}"
        )
    if (artefact.feature_version, artefact.inputs) != (FEATURE_VERSION, list(INPUTS)):
        raise PredictorRefused(
            f"the predictor reads feature version {artefact.feature_version}, "
            f"this gateway makes version {FEATURE_VERSION}"
        )
    if artefact.levels != list(LEVELS) or len(artefact.trees) != len(LEVELS):
        raise PredictorRefused(f"the predictor has other quantiles than {LEVELS}")
    return artefact
