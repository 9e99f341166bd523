"""Vectors on fewer axes: principal components fitted at training."""

import numpy as np
from numpy.typing import NDArray

from gateway.prediction.model.artefact import Matrix, PrincipalAxes

ROWS_PER_DIM = 10

Rows = NDArray[np.float32]


def fit_axes(vectors: Rows, most: int, *, rows_per_dim: int = ROWS_PER_DIM) -> PrincipalAxes:
    """Axes along which the complete rows of (n, d) vary most.

    At most `most`, fewer where there are few rows or they vary along fewer; possibly none.
    """
    present = vectors[~np.isnan(vectors).any(axis=1)].astype(np.float64)
    width = vectors.shape[1]
    mean = present.mean(axis=0) if len(present) else np.zeros(width)
    centred = present - mean
    _, variances, basis = np.linalg.svd(centred.T @ centred)
    varying = int((variances > 1e-6 * max(len(present), 1)).sum())
    kept = min(most, varying, len(present) // rows_per_dim)
    return PrincipalAxes(
        mean=Matrix.of(mean[None, :].astype(np.float32)),
        basis=Matrix.of(basis[:kept].T.astype(np.float32)),
    )


def compress(vectors: Rows, axes: PrincipalAxes) -> Rows:
    """Vectors on the fitted axes: (n, d) rows give (n, kept); NaN rows stay NaN."""
    return np.asarray((vectors - axes.mean.array()) @ axes.basis.array(), dtype=np.float32)
