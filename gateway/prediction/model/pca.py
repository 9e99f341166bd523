"""Dimensionality reduction of vectors by principal components."""

import numpy as np
from numpy.typing import NDArray

from gateway.prediction.model.artefact import Matrix, PrincipalAxes

ROWS_PER_DIM = 10

Rows = NDArray[np.float32]


def fit_axes(vectors: Rows, max_axes: int, *, rows_per_dim: int = ROWS_PER_DIM) -> PrincipalAxes:
    """The principal axes of the rows of (n, d) without NaN.

    At most `max_axes`, and at most one per `rows_per_dim` rows; possibly none.
    """
    complete = vectors[~np.isnan(vectors).any(axis=1)].astype(np.float64)
    width = vectors.shape[1]
    mean = complete.mean(axis=0) if len(complete) else np.zeros(width)
    centred = complete - mean
    _, variances, basis = np.linalg.svd(centred.T @ centred)
    varying = int((variances > 1e-6 * max(len(complete), 1)).sum())
    kept = min(max_axes, varying, len(complete) // rows_per_dim)
    return PrincipalAxes(
        mean=Matrix.of(mean[None, :].astype(np.float32)),
        basis=Matrix.of(basis[:kept].T.astype(np.float32)),
    )


def compress(vectors: Rows, axes: PrincipalAxes) -> Rows:
    """Project (n, d) rows onto the axes: (n, components); NaN rows stay NaN."""
    return np.asarray((vectors - axes.mean.array()) @ axes.basis.array(), dtype=np.float32)
