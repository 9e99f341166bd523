"""Serialised predictor versions: plain arrays and LightGBM text with a checksum, never pickle.

Layout: MAGIC, the SHA-256 of the rest (32 bytes), then one `Artefact` as MessagePack.
"""

import hashlib
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Final, TypeVar
from uuid import UUID

import msgspec
import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace
from numpy.typing import NDArray

from gateway.errors import PredictorRefused
from gateway.prediction.adaptation.conformal import ConformityScores
from gateway.prediction.features.features import FEATURE_VERSION, INPUTS
from gateway.prediction.messages import FORMS, Form, stratum
from gateway.quantiles import LEVELS, NORMAL

Part = TypeVar("Part")

MAGIC: Final = b"LMAASP2\n"
DIGEST_BYTES: Final = 32
ADDITIVE: Final = "additive_kernels"  # among the inputs of versions with such a second stage
SENTENCE_SHARE: Final = 0.65  # of the second stage in versions that have none per app


class Matrix(Struct, frozen=True):
    """A float32 matrix in row-major order."""

    rows: int
    columns: int
    data: bytes

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> "Matrix":
        """Pack a two-dimensional array."""
        rows, columns = values.shape
        return cls(rows, columns, values.astype(np.float32).tobytes())

    def array(self) -> NDArray[np.float32]:
        """The (rows, columns) array. ValueError if the data has another size."""
        return np.frombuffer(self.data, dtype=np.float32).reshape(self.rows, self.columns)


class QuantizedMatrix(Struct, frozen=True):
    """A matrix in int8: multiples from -127 to 127 of a scale per column, (1, columns)."""

    scale: Matrix
    data: bytes

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> "QuantizedMatrix":
        """Quantize a two-dimensional array; the error is at most half a scale."""
        scale = np.maximum(np.abs(values).max(axis=0, initial=0.0), 1e-12) / 127
        return cls(Matrix.of(scale[None]), np.round(values / scale).astype(np.int8).tobytes())

    def multiples(self) -> NDArray[np.int8]:
        """The (rows, columns) multiples. ValueError if the data has another size."""
        return np.frombuffer(self.data, dtype=np.int8).reshape(-1, self.scale.columns)

    def array(self) -> NDArray[np.float32]:
        """The dequantized (rows, columns) array. ValueError if the data has another size."""
        return self.multiples() * self.scale.array()


class PrincipalAxes(Struct, frozen=True):
    """Principal components of vectors: mean (1, d) and basis (d, components)."""

    mean: Matrix
    basis: Matrix


class TextSpace(Struct, frozen=True):
    """Normalisation of text vectors: mean meaning, means and scales of the cues; (1, d) each."""

    meaning: Matrix
    cues: Matrix
    scale: Matrix


class FittedKernel(Struct, frozen=True):
    """One app's kernel ridge regression: training points (n, d), weights and targets (1, n).

    The kernel is the mean of a Gaussian on each group of columns; a further group begins at each of
    `groups`. The points are derived from the texts of requests: personal data.
    """

    points: QuantizedMatrix
    weights: Matrix
    targets: Matrix
    mean: float
    groups: tuple[int, ...] = ()


class SentenceStage(Struct, frozen=True):
    """The second stage: kernels and trees that read the embeddings of user inputs, too.

    An embedding enters a kernel's points around `centre` (1, d), and the trees by its components on
    `axes`, the instruction's by those on `instruction_axes`. It is a group of its own in kernels
    that are `additive`; in those of earlier releases one Gaussian reads text vector and embedding.
    The points are derived from the texts of requests: personal data.
    """

    centre: Matrix
    axes: PrincipalAxes
    instruction_axes: PrincipalAxes
    kernels: dict[UUID, FittedKernel]
    trees: list[str]
    mean: str
    additive: bool = False


class AppInstruction(Struct, frozen=True):
    """The embedding of an app's instruction (1, d), and its weight in the kernel over apps."""

    embedding: Matrix
    weight: float


class UnseenApps(Struct, frozen=True):
    """The model of apps that are not in the training data.

    Log length = weighted mean of two LightGBM models (texts): `by_input` of the input length,
    `by_text` of cues and meaning too; `levels` are the quantiles of its residuals at `LEVELS`.
    `instructions` of the apps it was fitted on draw it to apps with similar ones.
    """

    by_input: str
    by_text: str
    axes: PrincipalAxes
    levels: list[float]
    instructions: dict[UUID, AppInstruction] = {}


class AppLine(Struct, frozen=True):
    """Log length = intercept + slope · log(1 + user input length) ± `spread`, from `rows`.

    `levels` are the quantiles of its residuals at `LEVELS`, in spreads.
    """

    intercept: float
    slope: float
    spread: float
    rows: int
    levels: list[float] = field(default_factory=lambda: [*NORMAL])


class FitSettings(Struct, frozen=True):
    """What a fit chose by rows left out: the trees' `rounds`, and the share of the text parts.

    A share in [0, 1] is what the text parts count for against the line alone: `shares` by app,
    `share` of an app that is not among them. `sentences` are those of the second stage, if any, and
    `sentence_shares` and `sentence_share` what that stage counts for against the first.
    """

    rounds: int
    share: float
    shares: dict[UUID, float]
    sentences: "FitSettings | None" = None
    sentence_share: float = SENTENCE_SHARE
    sentence_shares: dict[UUID, float] = {}


class Artefact(Struct, frozen=True, kw_only=True):
    """One version. `trees` are LightGBM texts, one per level; so is `mean`, one text.

    Models predict log(1 + tokens); returned quantiles are natural logarithms of tokens. `embedder`
    is the id of the model whose embeddings the version reads; None: it reads none. `forms` are
    those that it distinguishes from free text; `inputs` has them too, so that releases that know no
    forms refuse it. Apps are strata: an app, or its answers of one of the forms.
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
    unseen_apps: UnseenApps = field(name="newcomer")
    settings: FitSettings | None = None
    scores: ConformityScores
    sentences: SentenceStage | None = None
    embedder: str | None = None
    forms: tuple[Form, ...] = ()


def inputs_of(forms: Sequence[Form], sentences: SentenceStage | None = None) -> list[str]:
    """The names of what a version reads, with these forms and this second stage.

    Releases that know no such forms or kernels refuse it.
    """
    additive = sentences is not None and sentences.additive
    return [*INPUTS, *(f"form_{form}" for form in forms), *([ADDITIVE] if additive else [])]


def encode(artefact: Artefact) -> bytes:
    """The bytes of a version, as stored."""
    body = msgspec.msgpack.encode(artefact)
    return MAGIC + hashlib.sha256(body).digest() + body


def checksum(stored: bytes) -> bytes:
    """SHA-256 of the stored bytes, kept in a column of its own."""
    return hashlib.sha256(stored).digest()


def decode(stored: bytes, *, model_hash: str, embedder: str | None = None) -> Artefact:
    """Deserialise a version for the model with this hash and the embedder with this id; None: any.

    PredictorRefused if it is damaged, of another model, embedder, or feature version.
    """
    artefact = _read(stored)
    if artefact.model_hash != model_hash:
        raise PredictorRefused(
            f"the predictor was trained for model hash {artefact.model_hash}, not {model_hash}"
        )
    if embedder is not None and artefact.embedder not in (None, embedder):
        raise PredictorRefused(
            f"the predictor reads embeddings of {artefact.embedder}, this gateway's embedder is "
            f"{embedder}; LMAAS_EMBEDDER names it"
        )
    expected = FEATURE_VERSION, inputs_of(artefact.forms, artefact.sentences)
    if (artefact.feature_version, artefact.inputs) != expected:
        raise PredictorRefused(
            f"the predictor reads feature version {artefact.feature_version}, "
            f"this gateway computes version {FEATURE_VERSION}"
        )
    heads = [artefact.trees, *([artefact.sentences.trees] if artefact.sentences else [])]
    if artefact.levels != list(LEVELS) or any(len(each) != len(LEVELS) for each in heads):
        raise PredictorRefused(f"the predictor has other quantiles than {LEVELS}")
    return artefact


def without_texts(stored: bytes, apps: AbstractSet[UUID]) -> bytes | None:
    """The version without the kernels and instructions of some apps; None if it has none of theirs.

    PredictorRefused if it is damaged.
    """
    artefact = _read(stored)
    apps = {stratum(app, form) for app in apps for form in FORMS}
    kept = _without(artefact.kernels, apps)
    sentences = artefact.sentences
    if sentences is not None:
        sentences = replace(sentences, kernels=_without(sentences.kernels, apps))
    unseen = artefact.unseen_apps
    unseen = replace(unseen, instructions=_without(unseen.instructions, apps))
    remaining = replace(artefact, kernels=kept, sentences=sentences, unseen_apps=unseen)
    return None if remaining == artefact else encode(remaining)


def _without(parts: dict[UUID, Part], apps: AbstractSet[UUID]) -> dict[UUID, Part]:
    return {app: part for app, part in parts.items() if app not in apps}


def check_whole(stored: bytes) -> bytes:
    """The part with the artefact, of which nothing is read. PredictorRefused if it is damaged."""
    head = len(MAGIC) + DIGEST_BYTES
    digest, body = stored[len(MAGIC) : head], stored[head:]
    if not stored.startswith(MAGIC):
        raise PredictorRefused("not a predictor: the file does not begin with its magic bytes")
    if hashlib.sha256(body).digest() != digest:
        raise PredictorRefused("the predictor is damaged: its checksum does not match")
    return body


def _read(stored: bytes) -> Artefact:
    try:
        return msgspec.msgpack.decode(check_whole(stored), type=Artefact)
    except msgspec.DecodeError as error:
        raise PredictorRefused(f"the predictor cannot be read: {error}") from error
