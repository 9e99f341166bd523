"""The second stage: what the sentence embeddings of the user inputs add to the text vectors.

Per app a kernel ridge regression on text vector and embedding takes the place of the one on the
text vector: its kernel is the mean of a Gaussian on each. Trees of its own read its outputs and the
principal components of the embeddings of user input and instruction. What it counts for against the
first stage is chosen per app. The first stage serves until the embedding of a text is computed, and
where it is not.
"""

from typing import Final, NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from gateway.prediction.features.text_encoder import BIGRAM_DIMS, MEANING_DIMS, UNIGRAM_DIMS
from gateway.prediction.model.artefact import (
    FitSettings,
    Matrix,
    PrincipalAxes,
    SentenceStage,
)
from gateway.prediction.model.heads import (
    Heads,
    LeftOutLengths,
    LinePrediction,
    PredictedLengths,
    ScaledLengths,
    fit_heads,
)
from gateway.prediction.model.inputs import ModelInputs
from gateway.prediction.model.pca import compress, fit_axes
from gateway.prediction.model.text_kernel import (
    AppKernel,
    Points,
    fit_kernels,
    kernel_outputs,
)
from gateway.prediction.model.trees import Parts, Table
from gateway.quantiles import Floats

MIN_EMBEDDED_ROWS: Final = 100
# An answer that ends before its text is embedded has none: with more of these missing, the second
# stage would learn from long answers alone.
MIN_EMBEDDED_SHARE: Final = 0.9
# In versions of earlier releases: the norm of the embedding's part of a point, and shares of the
# norms that the text vector's parts have in the first stage.
JOINT_SENTENCE_WEIGHT: Final = 0.5
JOINT_MEANING_SHARE: Final = 0.47
JOINT_SKETCH_SHARE: Final = 0.6
SKETCH_DIMS: Final = UNIGRAM_DIMS + BIGRAM_DIMS
SENTENCE_AXES: Final = 16
INSTRUCTION_AXES: Final = 8
# Both stages know the text, so neither is the safe one: the share with the largest gain is taken.
SURENESS: Final = 0.0


class FittedStage(NamedTuple):
    """A second stage; what its fit chose, and by which of all requests (`FittedHeads`)."""

    stage: SentenceStage
    settings: FitSettings
    left_out: LeftOutLengths | None


def fit_sentence_stage(
    inputs: ModelInputs,
    lengths: ScaledLengths,
    points: Points,
    table: Table,
    settings: FitSettings | None,
    parts: Parts,
    *,
    threads: int,
) -> FittedStage | None:
    """Fit on those of n requests with an embedding; None if they are too few.

    `points` (n, d) are those of the text kernels, `table` (n, columns) what the trees read besides.
    Without `settings` they are chosen by `parts` of the requests, each left out in turn.
    """
    embedded = inputs.embedded
    rows = np.flatnonzero(embedded)
    if len(rows) < max(MIN_EMBEDDED_ROWS, MIN_EMBEDDED_SHARE * len(inputs)):
        return None
    inputs, lengths = inputs.rows(rows), lengths.rows(rows)
    centre = inputs.sentences.mean(axis=0, dtype=np.float64)[None].astype(np.float32)
    groups = (points.shape[1],)
    points = _points(points[rows], inputs.sentences, centre)
    kernels, outputs = fit_kernels(inputs.apps, points, lengths.expected, lengths.weights, groups)
    axes = fit_axes(inputs.sentences, SENTENCE_AXES)
    instruction_axes = fit_axes(inputs.instructions[inputs.instruction_of], INSTRUCTION_AXES)
    read = np.hstack(
        (
            with_kernel(table[rows], lengths.line, outputs),
            _components(inputs, axes, instruction_axes),
        ),
        dtype=np.float32,
    )
    place = np.cumsum(embedded) - 1  # of an embedded request among these
    own_parts = [place[part[embedded[part]]] for part in parts]
    heads = fit_heads(read, lengths, outputs[:, 0], settings, own_parts, threads=threads)
    stage = SentenceStage(
        Matrix.of(centre), axes, instruction_axes, kernels, heads.trees, heads.mean, additive=True
    )
    left_out = heads.left_out and heads.left_out._replace(rows=rows[heads.left_out.rows])
    return FittedStage(stage, heads.settings, left_out)


def sentence_shares(
    lengths: ScaledLengths, first: LeftOutLengths, second: LeftOutLengths
) -> tuple[float, dict[UUID, float]]:
    """What the second stage counts for against the first: in all apps together, and in each app.

    Chosen on the requests that were left out of both (`text_shares`).
    """
    both = np.isin(first.rows, second.rows)
    own = lengths.rows(first.rows[both])
    return own.shares(
        first.quantiles[both], second.quantiles, first.lengths[both], sureness=SURENESS
    )


class SentenceModel:
    """A fitted second stage, ready to predict. PredictorRefused if its trees cannot be read."""

    def __init__(self, fitted: SentenceStage, settings: FitSettings | None) -> None:
        self._centre = fitted.centre.array()
        self._points_of = _points if fitted.additive else joint_points
        self._axes = fitted.axes, fitted.instruction_axes
        self._kernels = {app: AppKernel(kernel) for app, kernel in fitted.kernels.items()}
        self._heads = Heads(fitted.trees, fitted.mean, settings)

    def predict(
        self, inputs: ModelInputs, line: LinePrediction, points: Points, table: Table
    ) -> PredictedLengths:
        """The lengths of n requests with an embedding; the rest as in `fit_sentence_stage`."""
        points = self._points_of(points, inputs.sentences, self._centre)
        outputs = kernel_outputs(self._kernels, inputs.apps, points)
        read = with_kernel(table, line, outputs), _components(inputs, *self._axes)
        return self._heads.predict(np.hstack(read, dtype=np.float32), line, outputs[:, 0])


def with_kernel(table: Table, line: LinePrediction, outputs: Floats) -> Table:
    """The table (n, columns) with what line and kernel predict, in logs of tokens."""
    centre, spread = line.centre, line.spread
    derived = np.column_stack(
        (
            centre,
            np.log(spread),
            spread[:, None] * outputs[:, :2],
            outputs[:, 2],
            centre + spread * outputs[:, 0],
        )
    )
    return np.hstack((table, derived), dtype=np.float32)


def _components(inputs: ModelInputs, axes: PrincipalAxes, instruction_axes: PrincipalAxes) -> Table:
    """The compressed embeddings of user inputs and instructions; NaN where one is missing."""
    instructions = compress(inputs.instructions, instruction_axes)[inputs.instruction_of]
    return np.hstack((compress(inputs.sentences, axes), instructions))


def _points(points: Points, sentences: NDArray[np.float32], centre: Points) -> Points:
    """The points of the text vectors (n, d), and the embeddings around the centre, of length 1."""
    around = sentences - centre
    around /= np.maximum(np.linalg.norm(around, axis=1, keepdims=True), 1e-6)
    return np.hstack((points, around), dtype=np.float32)


def joint_points(points: Points, sentences: NDArray[np.float32], centre: Points) -> Points:
    """Those of earlier releases, where one Gaussian reads both: each part has its own norm."""
    scale = np.ones(points.shape[1] + sentences.shape[1], dtype=np.float32)
    scale[:MEANING_DIMS] = JOINT_MEANING_SHARE
    scale[MEANING_DIMS : MEANING_DIMS + SKETCH_DIMS] = JOINT_SKETCH_SHARE
    scale[points.shape[1] :] = JOINT_SENTENCE_WEIGHT
    return _points(points, sentences, centre) * scale
