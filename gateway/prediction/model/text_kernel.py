"""What an app's requests with like texts were answered at: Gaussian kernel ridge, app by app.

Tells the residual of the app's line, in spreads; and beside it what the nearest texts alone were
answered at, and how much they differ. What it tells of the rows it is fitted on is leave-one-out,
the ridge's in closed form (Rasmussen and Williams 2006, eq. 5.12), so that whatever is fitted on
top sees during training what it will see when serving.
"""

from typing import Final

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from gateway.prediction.features.text_encoder import CUES, MEANING, SKETCH
from gateway.prediction.model.artefact import FittedKernel, Matrix, QuantizedMatrix, TextSpace
from gateway.quantiles import Bools, Floats

MEANING_WEIGHT: Final = 0.85  # lengths of the parts of a point
SKETCH_WEIGHT: Final = 0.5
CUE_WEIGHT: Final = 0.7
MAX_CUE_DEVIATION: Final = 5.0  # of a cue, in standard deviations
RIDGE_CANDIDATES: Final = (0.15, 0.3, 1.0, 3.0)
MAX_POINTS: Final = 3_000  # an app keeps
MAX_RIDGE_ROWS: Final = 2_000  # rows on which an app's ridge is chosen
RIDGE_FIT_SHARE: Final = 0.65  # of these
MIN_KERNEL_ROWS: Final = 40
BLOCK_POINTS: Final = 256  # points at a time: as many as stay in the processor's second cache
NEIGHBOUR_POWER: Final = 6  # a neighbour's weight is its nearness to this power
KERNEL_OUTPUTS: Final = ("ridge", "neighbours", "difference")  # columns

Points = NDArray[np.float32]


def fit_space(text: NDArray[np.float32]) -> TextSpace:
    """Means and scales of (n, TEXT_DIMS) vectors; rows of NaN are left out."""
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
    most = MAX_CUE_DEVIATION * CUE_WEIGHT / np.sqrt(cues.shape[1])
    return np.hstack((meaning, sketch, np.clip(cues, -most, most)), dtype=np.float32)


def fit_kernel(
    points: Points, target: Floats, weights: Floats, random: np.random.Generator
) -> tuple[FittedKernel, Floats]:
    """An app's kernel from n ≥ MIN_KERNEL_ROWS rows, and what it tells of them, (n, len(TOLD)).

    A row of weight w counts as w rows of the same point and target. Rows beyond MAX_POINTS are
    left out by lot, and told of as when serving.
    """
    order = random.permutation(len(points))
    kept, others = np.sort(order[:MAX_POINTS]), np.sort(order[MAX_POINTS:])
    packed = QuantizedMatrix.of(points[kept])
    own, mean = packed.array(), float(np.average(target[kept], weights=weights[kept]))
    targets = target[kept].astype(np.float32)
    matrix = gram(own, own)
    others_near = matrix.copy()
    np.fill_diagonal(others_near, 0.0)
    told = np.empty((len(points), len(KERNEL_OUTPUTS)))
    told[kept, 1:] = _neighbours(others_near, targets)
    ridge = _ridge(points, target, weights, order[:MAX_RIDGE_ROWS])
    matrix[np.diag_indices_from(matrix)] += ridge / np.maximum(weights[kept], 1e-3)
    lower = scipy.linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
    solved = scipy.linalg.cho_solve((lower, True), targets - np.float32(mean), check_finite=False)
    inverse, _ = scipy.linalg.lapack.strtri(lower, lower=1, overwrite_c=1)
    told[kept, 0] = targets - solved / np.einsum("ij,ij->j", inverse, inverse)
    kernel = FittedKernel(
        points=packed, weights=Matrix.of(solved[None]), mean=mean, targets=Matrix.of(targets[None])
    )
    if len(others):
        told[others] = AppKernel(kernel).tell(points[others])
    return kernel, told


class AppKernel:
    """An app's kernel, ready to predict. Its points stay in a byte a number: memory is the cost."""

    def __init__(self, kernel: FittedKernel) -> None:
        self._scale = kernel.points.scale.array()[0]
        self._points = kernel.points.multiples()
        self._squares = (kernel.points.array() ** 2).sum(axis=1)
        self._weights = kernel.weights.array()[0]
        self._mean = kernel.mean
        self._targets = kernel.targets.array()[0]

    def tell(self, points: Points) -> Floats:
        """For points (n, d) what is told of each, (n, len(TOLD)); 0 where there is none."""
        near = self._near(points)
        ridge = near @ self._weights + self._mean
        told = np.column_stack((ridge, _neighbours(near, self._targets)))
        return np.asarray(np.nan_to_num(told, nan=0.0), dtype=np.float64)

    def _near(self, points: Points) -> Points:
        """The gram of points (n, d) and the kernel's own, (n, m)."""
        scaled = points * self._scale
        products = np.empty((len(points), len(self._points)), dtype=np.float32)
        for start in range(0, len(self._points), BLOCK_POINTS):
            block = slice(start, start + BLOCK_POINTS)
            products[:, block] = scaled @ self._points[block].astype(np.float32).T
        return _nearness(products, points, self._squares)


def _neighbours(near: Points, targets: Points) -> Points:
    """Mean and standard deviation of the neighbours' targets (m,), by nearness (n, m): (n, 2)."""
    weights = near**NEIGHBOUR_POWER
    total = weights.sum(axis=1) + 1e-9
    mean = weights @ targets / total
    square = weights @ targets**2 / total
    return np.stack((mean, np.sqrt(np.maximum(square - mean**2, 0.0))), axis=1)


def gram(points: Points, others: Points) -> Points:
    """exp(-d²) of every pair, (n, m)."""
    return _nearness(points @ others.T, points, (others**2).sum(axis=1))


def _nearness(products: Points, points: Points, squares: Points) -> Points:
    """exp(-d²) from the scalar products (n, m) and the others' squared lengths (m,), in place."""
    products *= -2
    products += squares
    products += (points**2).sum(axis=1)[:, None]
    np.maximum(products, 0, out=products)
    nearness: Points = np.exp(-products, out=products)
    return nearness


def has_text(points: Points) -> Bools:
    """Which points are there, (n,)."""
    return np.asarray(np.isfinite(points).all(axis=1))


def _ridge(points: Points, target: Floats, weights: Floats, rows: NDArray[np.intp]) -> float:
    """The ridge with which one part of the rows tells most of the rest."""
    cut = int(RIDGE_FIT_SHARE * len(rows))
    fitted, told = rows[:cut], rows[cut:]
    matrix, across = gram(points[fitted], points[fitted]), gram(points[told], points[fitted])
    mean = np.average(target[fitted], weights=weights[fitted])
    centred = (target[fitted] - mean).astype(np.float32)
    errors = []
    for ridge in RIDGE_CANDIDATES:
        ridged = matrix + np.diag(ridge / np.maximum(weights[fitted], 1e-3)).astype(np.float32)
        factor = scipy.linalg.cho_factor(ridged, overwrite_a=True, check_finite=False)
        solved = scipy.linalg.cho_solve(factor, centred, check_finite=False)
        missed = target[told] - mean - across @ solved
        errors.append(float(np.average(missed**2, weights=weights[told])))
    return RIDGE_CANDIDATES[int(np.argmin(errors))]
