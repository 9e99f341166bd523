"""The length model: a line per app on log lengths, then quantile trees on the scaled residual.

For an app that training did not see it is the pooled line with the pooled residual's quantiles:
what was learned of other apps' residuals does not hold for it.
"""

from dataclasses import dataclass
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from gateway.prediction.artefact import Artefact, Axes, Line
from gateway.prediction.compression import INSTRUCTION_DIMS, USER_DIMS, compress, fit_axes
from gateway.prediction.inputs import Inputs
from gateway.prediction.lines import beyond, fit_lines, place
from gateway.prediction.messages import LEVELS
from gateway.prediction.survival import Bools, Floats, quantiles, weigh
from gateway.prediction.trees import Trees, fit_trees

DRAWS = 5  # values that stand in for one censored row


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The parts of a fitted model; field by field those of `Artefact`."""

    pooled: Line
    pooled_levels: list[float]
    lines: dict[UUID, Line]
    instruction_axes: Axes
    user_axes: Axes
    trees: list[str]


def fit(inputs: Inputs, tokens: Floats, censored: Bools, *, threads: int) -> Fitted:
    """Fit on n ≥ 1 requests and their generation lengths.

    A censored row enters the trees as DRAWS rows of weight 1/DRAWS, at residuals drawn from the
    natural ones above its own (`lines.beyond`).
    """
    log_lengths = np.log(np.maximum(tokens, 1.0))
    pooled, lines = fit_lines(inputs.apps, inputs.log_uil, log_lengths, censored)
    instruction_axes = fit_axes(inputs.instructions, INSTRUCTION_DIMS, rows_per_dim=1)
    user_axes = fit_axes(inputs.embeddings, USER_DIMS)
    table = _table(inputs, lines, pooled, instruction_axes, user_axes)

    centre, spread = place(inputs.apps, inputs.log_uil, pooled, lines)
    targets = beyond((log_lengths - centre) / spread, censored, draws=DRAWS)
    natural = np.flatnonzero(~censored)
    cut = np.repeat(np.flatnonzero(censored), DRAWS)
    rows = np.concatenate((natural, cut))
    return Fitted(
        pooled=pooled,
        pooled_levels=_pooled_levels(inputs, log_lengths, censored, pooled),
        lines=lines,
        instruction_axes=instruction_axes,
        user_axes=user_axes,
        trees=fit_trees(
            table[rows],
            np.concatenate((targets[natural, 0], targets[censored].ravel())),
            np.concatenate((np.ones(len(natural)), np.full(len(cut), 1 / DRAWS))),
            threads=threads,
        ),
    )


class QuantileModel:
    """A version ready to predict."""

    def __init__(self, fitted: Fitted | Artefact) -> None:
        self._fitted = fitted
        self._trees = Trees(fitted.trees)

    def predict(self, inputs: Inputs) -> Floats:
        """Log quantiles at `LEVELS` of n requests, (n, len(LEVELS)), rising, not yet capped."""
        fitted = self._fitted
        centre, spread = place(inputs.apps, inputs.log_uil, fitted.pooled, fitted.lines)
        table = _table(
            inputs, fitted.lines, fitted.pooled, fitted.instruction_axes, fitted.user_axes
        )
        residual = self._trees.score(table)
        unseen = [app not in fitted.lines for app in inputs.apps]
        residual[unseen] = fitted.pooled_levels
        # Sorting the levels of a row never raises its pinball loss (Chernozhukov et al. 2010).
        return np.sort(centre[:, None] + spread[:, None] * residual, axis=1)


def _pooled_levels(
    inputs: Inputs, log_lengths: Floats, censored: Bools, pooled: Line
) -> list[float]:
    centre, spread = place(inputs.apps, inputs.log_uil, pooled, {})
    ordered, weights = weigh((log_lengths - centre) / spread, censored)
    return [float(each) for each in quantiles(ordered, weights, np.array(LEVELS))]


def _table(
    inputs: Inputs, lines: dict[UUID, Line], pooled: Line, instruction_axes: Axes, user_axes: Axes
) -> NDArray[np.float32]:
    centre, spread = place(inputs.apps, inputs.log_uil, pooled, lines)
    instructions = compress(inputs.instructions, instruction_axes)[inputs.instruction_of]
    return np.hstack(
        (
            inputs.request,
            centre[:, None].astype(np.float32),
            np.log(spread)[:, None].astype(np.float32),
            instructions,
            compress(inputs.embeddings, user_axes),
        )
    )
