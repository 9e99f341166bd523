"""What an app's instruction says of its lengths: those of apps with similar instructions.

Kernel ridge regression over the apps of the training data, from the embedding of an app's
instruction to the mean residual of the model of unseen apps.
"""

from collections.abc import Mapping
from typing import Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from gateway.prediction.model.app_lines import rows_by_app
from gateway.prediction.model.artefact import AppInstruction, Matrix
from gateway.prediction.model.inputs import ModelInputs
from gateway.quantiles import Floats

SCALE: Final = 1.0  # one minus cosine, at which similarity falls to 1/e
RIDGE: Final = 0.5
MIN_APPS: Final = 5  # with fewer, similar apps are a coincidence

Vectors = NDArray[np.float32]


def fit_instructions(
    inputs: ModelInputs, residuals: Floats, weights: Floats
) -> dict[UUID, AppInstruction]:
    """The apps with an embedded instruction and their weights; none if they are too few.

    `residuals` (n,) are of log(1 + tokens). An app's embedding is the mean of its requests'.
    """
    points, means = {}, []
    for app, rows in rows_by_app(inputs.apps).items():
        own = inputs.instructions[inputs.instruction_of[rows]]
        known = ~np.isnan(own).any(axis=1)
        if known.any():
            points[app] = _unit(own[known].mean(axis=0, keepdims=True))
            means.append(float(np.average(residuals[rows], weights=weights[rows])))
    if len(points) < MIN_APPS:
        return {}
    stacked = np.vstack(list(points.values()))
    ridged = _similarity(stacked, stacked) + RIDGE * np.eye(len(stacked))
    coefficients = np.linalg.solve(ridged, np.array(means))
    return {
        app: AppInstruction(Matrix.of(point), weight)
        for (app, point), weight in zip(points.items(), coefficients.tolist(), strict=True)
    }


def instruction_offsets(instructions: Mapping[UUID, AppInstruction], inputs: ModelInputs) -> Floats:
    """What is added to the log lengths of n requests, (n,); 0 without an embedded instruction."""
    offsets = np.zeros(len(inputs))
    if not instructions:
        return offsets
    points = np.vstack([each.embedding.array() for each in instructions.values()])
    weights = np.array([each.weight for each in instructions.values()])
    found = _similarity(_unit(inputs.instructions), points) @ weights
    offsets = np.nan_to_num(found, nan=0.0)[inputs.instruction_of]
    return np.asarray(offsets)


def _unit(vectors: Vectors) -> Vectors:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-6), dtype=np.float32)


def _similarity(points: Vectors, others: Vectors) -> Floats:
    return np.asarray(np.exp((points @ others.T - 1) / SCALE), dtype=np.float64)
