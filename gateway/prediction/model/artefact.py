"""A fitted predictor as bytes: plain arrays and LightGBM text, checksummed, never pickle.

Layout: MAGIC, the SHA-256 of the rest (32 bytes), then one `Artefact` as MessagePack.
"""

import hashlib
from collections.abc import Set as AbstractSet
from typing import Final
from uuid import UUID

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from gateway.errors import PredictorRefused
from gateway.prediction.adaptation.conformal import ConformityScores
from gateway.prediction.features.features import FEATURE_VERSION, INPUTS
from gateway.quantiles import LEVELS

MAGIC: Final = b"LMAASP2\n"
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


class QuantizedMatrix(Struct, frozen=True):
    """A matrix in a byte a number: each column's scale, and multiples of it from -127 to 127."""

    scale: Matrix
    data: bytes

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> "QuantizedMatrix":
        """Pack a two-dimensional array; off by half a scale at most."""
        scale = np.maximum(np.abs(values).max(axis=0, initial=0.0), 1e-12) / 127
        return cls(Matrix.of(scale[None]), np.round(values / scale).astype(np.int8).tobytes())

    def multiples(self) -> NDArray[np.int8]:
        """The (rows, columns) array in scales. ValueError if the data is of another size."""
        return np.frombuffer(self.data, dtype=np.int8).reshape(-1, self.scale.columns)

    def array(self) -> NDArray[np.float32]:
        """The (rows, columns) array. ValueError if the data is of another size."""
        return self.multiples() * self.scale.array()


class PrincipalAxes(Struct, frozen=True):
    """A fitted compression of vectors: mean (1, d) and basis (d, kept)."""

    mean: Matrix
    basis: Matrix


class TextSpace(Struct, frozen=True):
    """Where texts are compared: their mean meaning, and their cues' means and scales, (1, d)."""

    meaning: Matrix
    cues: Matrix
    scale: Matrix


class FittedKernel(Struct, frozen=True):
    """One app's kernel ridge: the points learned from, (n, d), with weights and targets (1, n).

    The points are what is left of requests' texts: personal data.
    """

    points: QuantizedMatrix
    weights: Matrix
    targets: Matrix
    mean: float


class UnseenApps(Struct, frozen=True):
    """How long the answers of an app are that was not seen in training.

    Log length = a share of what the input's length tells and of what cues and meaning tell, two
    LightGBM texts; `levels` are the quantiles of what that misses.
    """

    by_input: str
    by_text: str
    axes: PrincipalAxes
    levels: list[float]


class AppLine(Struct, frozen=True):
    """Log length = intercept + slope · log(1 + UIL), give or take `spread`; seen on `rows`."""

    intercept: float
    slope: float
    spread: float
    rows: int


class Artefact(Struct, frozen=True, kw_only=True):
    """All of one version. `trees` are LightGBM texts, one for each of `levels`; so is `mean`.

    Lengths are log(1 + tokens) inside, natural logarithms of tokens where quantiles leave it.
    """

    model: str
    model_hash: str
    feature_version: int
    inputs: list[str]
    levels: list[float]
    pooled: AppLine
    lines: dict[UUID, AppLine]
    space: TextSpace
    kernels: dict[UUID, FittedKernel]
    trees: list[str]
    mean: str
    newcomer: UnseenApps
    scores: ConformityScores


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
    artefact = _read(stored)
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


def without_texts(stored: bytes, apps: AbstractSet[UUID]) -> bytes | None:
    """A version without the text vectors of some apps' requests; None where it holds none.

    PredictorRefused if it is damaged.
    """
    artefact = _read(stored)
    kept = {app: kernel for app, kernel in artefact.kernels.items() if app not in apps}
    if len(kept) == len(artefact.kernels):
        return None
    return encode(msgspec.structs.replace(artefact, kernels=kept))


def _read(stored: bytes) -> Artefact:
    head = len(MAGIC) + DIGEST_BYTES
    digest, body = stored[len(MAGIC) : head], stored[head:]
    if not stored.startswith(MAGIC):
        raise PredictorRefused("these bytes are no predictor: they do not begin with its mark")
    if hashlib.sha256(body).digest() != digest:
        raise PredictorRefused("the predictor is damaged: its checksum does not match")
    try:
        return msgspec.msgpack.decode(body, type=Artefact)
    except msgspec.DecodeError as error:
        raise PredictorRefused(f"the predictor cannot be read: {error}") from error
