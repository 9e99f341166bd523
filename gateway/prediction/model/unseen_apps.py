"""The model of apps that are not in the training data: only features that hold for every app.

The embedding of the instruction, where it is known, draws a new app to those of similar ones.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.prediction.censoring import kaplan_meier, weighted_quantiles
from gateway.prediction.features.text_encoder import CUES, MEANING
from gateway.prediction.model.artefact import UnseenApps
from gateway.prediction.model.inputs import ModelInputs
from gateway.prediction.model.instruction_neighbours import (
    fit_instructions,
    instruction_offsets,
)
from gateway.prediction.model.pca import compress, fit_axes
from gateway.prediction.model.trees import fit_mean, read_trees
from gateway.quantiles import LEVELS, Bools, Floats

MEANING_AXES: Final = 32
BY_INPUT: Final = {"num_leaves": 31, "min_data_in_leaf": 20}
BY_TEXT: Final = {"num_leaves": 15, "min_data_in_leaf": 100}
INPUT_ROUNDS: Final = 60
TEXT_ROUNDS: Final = 100
TEXT_SHARE: Final = 0.5


def fit_unseen_apps(
    inputs: ModelInputs, log_lengths: Floats, censored: Bools, weights: Floats, *, threads: int
) -> UnseenApps:
    """Fit on n rows; an app of k rows has the total weight √k."""
    even = weights * _app_weights(inputs)
    axes = fit_axes(inputs.text[:, MEANING], MEANING_AXES)
    by_input = fit_mean(
        _numbers(inputs), log_lengths, even, INPUT_ROUNDS, threads=threads, **BY_INPUT
    )
    table = np.hstack(
        (_numbers(inputs), inputs.text[:, CUES], compress(inputs.text[:, MEANING], axes))
    )
    by_text = fit_mean(table, log_lengths, even, TEXT_ROUNDS, threads=threads, **BY_TEXT)
    fitted = UnseenApps(by_input, by_text, axes, [0.0] * len(LEVELS))
    residuals = log_lengths - UnseenAppsModel(fitted).centre(inputs)
    levels = weighted_quantiles(*kaplan_meier(residuals, censored), np.array(LEVELS))
    instructions = fit_instructions(inputs, residuals, weights)
    return UnseenApps(by_input, by_text, axes, levels.tolist(), instructions)


class UnseenAppsModel:
    """A fitted model of unseen apps, ready to predict."""

    def __init__(self, fitted: UnseenApps) -> None:
        self._fitted = fitted
        self._by_input, self._by_text = read_trees([fitted.by_input, fitted.by_text])

    def centre(self, inputs: ModelInputs) -> Floats:
        """Predicted log(1 + tokens) of n requests, (n,)."""
        by_input = self._by_input.score(_numbers(inputs))
        meaning = compress(inputs.text[:, MEANING], self._fitted.axes)
        by_text = self._by_text.score(np.hstack((_numbers(inputs), inputs.text[:, CUES], meaning)))
        centre: Floats = (1 - TEXT_SHARE) * by_input + TEXT_SHARE * by_text
        return centre + instruction_offsets(self._fitted.instructions, inputs)

    def predict(self, inputs: ModelInputs) -> Floats:
        """Quantiles of log(1 + tokens) at `LEVELS`, (n, len(LEVELS))."""
        found: Floats = self.centre(inputs)[:, None] + np.array(self._fitted.levels)
        return found


def _numbers(inputs: ModelInputs) -> NDArray[np.float32]:
    """The input length, and the form of the answer, (n, 1 + k)."""
    return np.hstack((inputs.log_uil[:, None], inputs.form_columns), dtype=np.float32)


def _app_weights(inputs: ModelInputs) -> Floats:
    numbers = {app: number for number, app in enumerate(dict.fromkeys(inputs.apps))}
    app_of = np.array([numbers[app] for app in inputs.apps])
    weights = 1 / np.sqrt(np.bincount(app_of)[app_of])
    even: Floats = weights / weights.mean()
    return even
