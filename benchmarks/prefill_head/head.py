"""The head: ridge regression of what a prediction leaves unexplained on compressed states."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from gateway.quantiles import Floats

AXES: Final = (8, 16, 32, 64)  # per layer; the number is chosen by the error of rows left out
PENALTIES: Final = tuple(10 ** (power / 2) for power in range(15))
SMALLEST_STD: Final = 1e-6


@dataclass(frozen=True)
class Ridge:
    """Weights (d,) about the mean (d,) of the inputs, and the mean of the targets.

    `left_out` is the mean squared error of the training rows, each left out of the fit.
    """

    centre: Floats
    weights: Floats
    mean: float
    left_out: float

    def predict(self, inputs: Floats) -> Floats:
        """Targets of inputs (n, d)."""
        return np.asarray((inputs - self.centre) @ self.weights + self.mean)


@dataclass(frozen=True)
class Axes:
    """Principal components of standardised columns: mean and scale (d,), basis (d, k)."""

    mean: Floats
    scale: Floats
    basis: Floats

    def project(self, states: Floats) -> Floats:
        """Rows (n, d) as (n, k) float16 numbers of about unit variance."""
        found = (states - self.mean) / self.scale @ self.basis
        return np.asarray(found.astype(np.float16), np.float64)


@dataclass(frozen=True)
class Head:
    """Axes per layer, and the ridge that reads them and the prediction."""

    axes: tuple[Axes, ...]
    ridge: Ridge

    @property
    def numbers(self) -> int:
        """How many numbers of a sequence it reads."""
        return sum(each.basis.shape[1] for each in self.axes)

    def correction(self, states: Floats, location: Floats) -> Floats:
        """What to add to the predicted mean log length `location` (n,); states (n, layers, d)."""
        return self.ridge.predict(_inputs(self.axes, states, location))


def fit_head(states: Floats, location: Floats, residuals: Floats) -> Head:
    """The head with the least error on left-out rows; states (n, layers, d), others (n,)."""
    full = [principal_axes(states[:, layer], max(AXES)) for layer in range(states.shape[1])]
    heads = []
    for count in AXES:
        axes = tuple(Axes(each.mean, each.scale, each.basis[:, :count]) for each in full)
        heads.append(Head(axes, fit_ridge(_inputs(axes, states, location), residuals)))
    return min(heads, key=lambda head: head.ridge.left_out)


def principal_axes(rows: Floats, count: int) -> Axes:
    """The first axes of n rows (n, d), at most `count`, d and n / 2, scaled to unit variance."""
    mean, scale = rows.mean(axis=0), rows.std(axis=0) + SMALLEST_STD
    _, singular, basis = np.linalg.svd((rows - mean) / scale, full_matrices=False)
    kept = min(count, len(rows) // 2, len(basis))
    spread = singular[:kept] / np.sqrt(len(rows)) + SMALLEST_STD
    return Axes(mean, scale, basis[:kept].T / spread)


def fit_ridge(inputs: Floats, targets: Floats) -> Ridge:
    """Ridge regression of (n,) on (n, d), with the penalty whose left-out error is least.

    The error of a row left out is its residual over one less its leverage (Allen 1974).
    """
    centre, mean = inputs.mean(axis=0), float(targets.mean())
    left, singular, right = np.linalg.svd(inputs - centre, full_matrices=False)
    along = left.T @ (targets - mean)
    found = []
    for penalty in PENALTIES:
        kept = singular**2 / (singular**2 + penalty)
        leverage = left**2 @ kept + 1 / len(targets)
        residuals = targets - mean - left @ (kept * along)
        weights = right.T @ (singular / (singular**2 + penalty) * along)
        left_out = float(np.mean((residuals / (1 - leverage)) ** 2))
        found.append(Ridge(centre, weights, mean, left_out))
    return min(found, key=lambda ridge: ridge.left_out)


def _inputs(axes: tuple[Axes, ...], states: Floats, location: Floats) -> Floats:
    projected = [each.project(states[:, layer]) for layer, each in enumerate(axes)]
    return np.column_stack([*projected, location])
