"""Gaussian kernel ridge regression on text vectors, one per app: lengths of similar texts.

It predicts the residual of the app's line, in spreads, and outputs in addition the mean and the
standard deviation of the residuals of the nearest texts. Outputs for its own training rows are
leave-one-out predictions, those of the ridge in closed form (Rasmussen and Williams 2006, eq.
5.12), so the next stage sees the same distribution in training and in serving.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final
from uuid import UUID

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from gateway.prediction.features.text_encoder import CUES, MEANING, SKETCH
from gateway.prediction.model.app_lines import rows_by_app
from gateway.prediction.model.artefact import FittedKernel, Matrix, QuantizedMatrix, TextSpace
from gateway.quantiles import Bools, Floats

MEANING_WEIGHT: Final = 0.85  # norms of the parts of a point
SKETCH_WEIGHT: Final = 0.5
CUE_WEIGHT: Final = 0.7
MAX_CUE_DEVIATION: Final = 5.0  # of a cue, in standard deviations
RIDGE_CANDIDATES: Final = (0.15, 0.3, 1.0, 3.0)
MAX_POINTS: Final = 3_000  # per app
MAX_RIDGE_ROWS: Final = 2_000  # rows that select an app's ridge
RIDGE_FIT_SHARE: Final = 0.65  # of these rows; the rest validates
MIN_KERNEL_ROWS: Final = 40
BLOCK_POINTS: Final = 256  # points per product: a block fits the L2 cache
NEIGHBOUR_POWER: Final = 6  # neighbour weight = similarity to this power
SEED: Final = 1
KERNEL_OUTPUTS: Final = ("ridge", "neighbours", "difference")  # columns

Points = NDArray[np.float32]


def fit_space(text: NDArray[np.float32]) -> TextSpace:
    """Means and scales of (n, TEXT_DIMS) vectors; NaN rows are ignored."""
    known = text[~np.isnan(text).any(axis=1)]
    if not len(known):
        known = np.zeros((1, text.shape[1]), dtype=np.float32)
    cues = known[:, CUES]
    mean, scale = cues.mean(axis=0), cues.std(axis=0) + 1e-6
    deviations = np.clip((cues - mean) / scale, -MAX_CUE_DEVIATION, MAX_CUE_DEVIATION)
    length = float(np.sqrt((deviations**2).sum(axis=1).mean()))
    return TextSpace(
        meaning=Matrix.of(known[:, MEANING].mean(axis=0)[None]),
        cues=Matrix.of(mean[None]),
        scale=Matrix.of(scale[None] * max(length, 1e-6) / CUE_WEIGHT),
    )


def text_points(text: NDArray[np.float32], space: TextSpace) -> Points:
    """Text vectors (n, TEXT_DIMS) as points; NaN rows stay NaN."""
    meaning = text[:, MEANING] - space.meaning.array()
    meaning *= MEANING_WEIGHT / np.maximum(np.linalg.norm(meaning, axis=1, keepdims=True), 1e-6)
    sketch = text[:, SKETCH]
    sketch = sketch * (SKETCH_WEIGHT / np.maximum(np.linalg.norm(sketch, axis=1), 1e-6))[:, None]
    cues = (text[:, CUES] - space.cues.array()) / space.scale.array()
    max_cue = MAX_CUE_DEVIATION * CUE_WEIGHT / np.sqrt(cues.shape[1])
    return np.hstack((meaning, sketch, np.clip(cues, -max_cue, max_cue)), dtype=np.float32)


def fit_kernels(
    apps: Sequence[UUID],
    points: Points,
    target: Floats,
    weights: Floats,
    groups: tuple[int, ...] = (),
) -> tuple[dict[UUID, FittedKernel], Floats]:
    """The kernels of apps with enough points, and their outputs, (n, len(KERNEL_OUTPUTS)).

    Outputs of NaN points, and of the other apps, are 0. `groups` as in `FittedKernel`.
    """
    rng = np.random.default_rng(SEED)
    with_vector = has_text(points)
    outputs = np.zeros((len(points), len(KERNEL_OUTPUTS)))
    kernels = {}
    for app, rows in rows_by_app(apps).items():
        with_text = rows[with_vector[rows]]
        if len(with_text) >= MIN_KERNEL_ROWS:
            kernels[app], outputs[with_text] = fit_kernel(
                points[with_text], target[with_text], weights[with_text], rng, groups
            )
    return kernels, outputs


def kernel_outputs(
    kernels: "Mapping[UUID, AppKernel]", apps: Sequence[UUID], points: Points
) -> Floats:
    """The outputs for n points, (n, len(KERNEL_OUTPUTS)); 0 without a kernel or a text."""
    outputs = np.zeros((len(points), len(KERNEL_OUTPUTS)))
    for app, rows in rows_by_app(apps).items():
        if app in kernels:
            outputs[rows] = kernels[app].predict(points[rows])
    return outputs


def fit_kernel(
    points: Points,
    target: Floats,
    weights: Floats,
    random: np.random.Generator,
    groups: tuple[int, ...] = (),
) -> tuple[FittedKernel, Floats]:
    """Fit an app's kernel on n ≥ MIN_KERNEL_ROWS rows; with its outputs (n, len(KERNEL_OUTPUTS)).

    A row of weight w counts as w equal rows. Of more than MAX_POINTS rows a random subset is
    fitted; the others get the outputs of serving.
    """
    order = random.permutation(len(points))
    learned, left_out = np.sort(order[:MAX_POINTS]), np.sort(order[MAX_POINTS:])
    packed = QuantizedMatrix.of(points[learned])
    kept_points, mean = packed.array(), float(np.average(target[learned], weights=weights[learned]))
    targets = target[learned].astype(np.float32)
    matrix = gram(kept_points, kept_points, groups)
    other_similarity = matrix.copy()
    np.fill_diagonal(other_similarity, 0.0)
    outputs = np.empty((len(points), len(KERNEL_OUTPUTS)))
    outputs[learned, 1:] = _neighbours(other_similarity, targets)
    ridge = _ridge(points, target, weights, order[:MAX_RIDGE_ROWS], groups)
    matrix[np.diag_indices_from(matrix)] += ridge / np.maximum(weights[learned], 1e-3)
    lower = scipy.linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
    coefficients = scipy.linalg.cho_solve(
        (lower, True), targets - np.float32(mean), check_finite=False
    )
    inverse, _ = scipy.linalg.lapack.strtri(lower, lower=1, overwrite_c=1)
    outputs[learned, 0] = targets - coefficients / np.einsum("ij,ij->j", inverse, inverse)
    kernel = FittedKernel(
        points=packed,
        weights=Matrix.of(coefficients[None]),
        mean=mean,
        targets=Matrix.of(targets[None]),
        groups=groups,
    )
    if len(left_out):
        outputs[left_out] = AppKernel(kernel).predict(points[left_out])
    return kernel, outputs


class AppKernel:
    """An app's kernel, ready to predict. Its points stay quantized in int8 to save memory."""

    def __init__(self, kernel: FittedKernel) -> None:
        self._scale = kernel.points.scale.array()[0]
        self._points = kernel.points.multiples()
        self._groups = columns_of(kernel.groups)
        squares = kernel.points.array() ** 2
        self._squares = [squares[:, columns].sum(axis=1) for columns in self._groups]
        self._weights = kernel.weights.array()[0]
        self._mean = kernel.mean
        self._targets = kernel.targets.array()[0]

    def predict(self, points: Points) -> Floats:
        """The outputs for points (n, d), (n, len(KERNEL_OUTPUTS)); 0 for NaN points."""
        similarity = self._similarity_to_kernel(points)
        ridge = product(similarity, self._weights) + self._mean
        outputs = np.column_stack((ridge, _neighbours(similarity, self._targets)))
        return np.asarray(np.nan_to_num(outputs, nan=0.0), dtype=np.float64)

    def _similarity_to_kernel(self, points: Points) -> Points:
        """The Gram matrix of points (n, d) with the kernel's points, (n, m)."""
        scaled = points * self._scale
        products = np.empty((len(self._groups), len(points), len(self._points)), dtype=np.float32)
        for start in range(0, len(self._points), BLOCK_POINTS):
            block = slice(start, start + BLOCK_POINTS)
            others = self._points[block].astype(np.float32).T
            for group, columns in zip(products, self._groups, strict=True):
                group[:, block] = product(scaled[:, columns], others[columns])
        return _mean_similarity(products, points, self._squares, self._groups)


def _neighbours(similarity: Points, targets: Points) -> Points:
    """Mean and standard deviation of targets (m,), weighted by similarity (n, m): (n, 2)."""
    weights = similarity**NEIGHBOUR_POWER
    total = weights.sum(axis=1) + 1e-9
    mean = product(weights, targets) / total
    square = product(weights, targets**2) / total
    return np.stack((mean, np.sqrt(np.maximum(square - mean**2, 0.0))), axis=1)


def columns_of(groups: Sequence[int]) -> list[slice]:
    """The columns of each group, where a further one begins at each of `groups`."""
    return [slice(*ends) for ends in pairwise((0, *groups, None))]


def gram(points: Points, others: Points, groups: Sequence[int] = ()) -> Points:
    """The Gram matrix: the mean over the groups of exp(-d²) of every pair, (n, m)."""
    columns = columns_of(groups)
    products = (product(points[:, each], others[:, each].T) for each in columns)
    squares = [(others[:, each] ** 2).sum(axis=1) for each in columns]
    return _mean_similarity(products, points, squares, columns)


def product(left: Points, right: Points) -> Points:
    """The matrix product."""
    # BLAS may set the invalid flag on rows that it pads a block with, which numpy then reports.
    with np.errstate(invalid="ignore"):
        return left @ right


def _mean_similarity(
    products: Iterable[Points],
    points: Points,
    squares: Sequence[Points],
    columns: Sequence[slice],
) -> Points:
    """The mean of `_similarity` over groups of columns, from the products of each, in place."""
    total: Points | None = None
    for found, own, each in zip(products, squares, columns, strict=True):
        similarity = _similarity(found, points[:, each], own)
        total = similarity if total is None else np.add(total, similarity, out=total)
    assert total is not None  # there is one group at least
    total /= len(columns)
    return total


def _similarity(products: Points, points: Points, squares: Points) -> Points:
    """exp(-d²) from scalar products (n, m) and squared norms of the others (m,), in place."""
    products *= -2
    products += squares
    products += (points**2).sum(axis=1)[:, None]
    np.maximum(products, 0, out=products)
    similarity: Points = np.exp(-products, out=products)
    return similarity


def has_text(points: Points) -> Bools:
    """Which points are not NaN, (n,)."""
    return np.asarray(np.isfinite(points).all(axis=1))


def _ridge(
    points: Points,
    target: Floats,
    weights: Floats,
    rows: NDArray[np.intp],
    groups: Sequence[int],
) -> float:
    """The ridge with the smallest validation error: fitted on some rows, tested on the rest."""
    cut = int(RIDGE_FIT_SHARE * len(rows))
    fit_rows, test_rows = rows[:cut], rows[cut:]
    matrix, cross = (
        gram(points[fit_rows], points[fit_rows], groups),
        gram(points[test_rows], points[fit_rows], groups),
    )
    mean = np.average(target[fit_rows], weights=weights[fit_rows])
    centred = (target[fit_rows] - mean).astype(np.float32)
    errors = []
    for ridge in RIDGE_CANDIDATES:
        ridged = matrix + np.diag(ridge / np.maximum(weights[fit_rows], 1e-3)).astype(np.float32)
        factor = scipy.linalg.cho_factor(ridged, overwrite_a=True, check_finite=False)
        coefficients = scipy.linalg.cho_solve(factor, centred, check_finite=False)
        residuals = target[test_rows] - mean - product(cross, coefficients)
        errors.append(float(np.average(residuals**2, weights=weights[test_rows])))
    return RIDGE_CANDIDATES[int(np.argmin(errors))]
