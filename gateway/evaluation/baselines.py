"""Simpler ways to foretell lengths: from the input's length, the app's mean, a line per app."""

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.evaluation.arrivals import EvaluationRequests
from gateway.evaluation.forecast import Forecast, residual_quantiles
from gateway.prediction.model.app_lines import fit_lines, predict_lines
from gateway.prediction.model.length_model import MEAN_ROUNDS, MEAN_SHAPE, from_log1p
from gateway.prediction.model.trees import fit_mean, fit_trees, read_trees
from gateway.quantiles import Floats

INPUT_LENGTH: Final = "input length"
APP_MEAN: Final = "app mean"
LINE_PER_APP: Final = "line per app"


def input_length(learned: EvaluationRequests, test: EvaluationRequests, threads: int) -> Forecast:
    """The product's heads, with its parameters and statistics, on log(1 + UIL) alone."""
    known, asked, weights = (
        _input_length_feature(learned),
        _input_length_feature(test),
        np.ones(len(learned)),
    )
    texts = fit_trees(known, np.log1p(learned.tokens), weights, threads=threads)
    mean = fit_mean(known, learned.tokens, weights, MEAN_ROUNDS, threads=threads, **MEAN_SHAPE)
    *levels, tokens = [head.score(asked) for head in read_trees([*texts, mean])]
    found = Forecast.of(from_log1p(np.sort(np.stack(levels, axis=1), axis=1)))
    return replace(found, mean=(found.mean + np.maximum(tokens, 1.0)) / 2)


def app_mean(learned: EvaluationRequests, test: EvaluationRequests) -> Forecast:
    """The mean length of each app's learned requests, and their quantiles."""
    logs = np.log1p(learned.tokens)
    fitted = _means_by_app(learned.names, logs, learned.names)
    location = _means_by_app(learned.names, logs, test.names)
    return Forecast(
        log_quantiles=residual_quantiles(location, test.names, logs - fitted, learned.names),
        location=location,
        mean=_means_by_app(learned.names, learned.tokens, test.names),
    )


def line_per_app(learned: EvaluationRequests, test: EvaluationRequests) -> Forecast:
    """The straight line per app on log lengths, with the quantiles of what it leaves."""
    logs = np.log1p(learned.tokens)
    natural = np.zeros(len(learned), dtype=np.bool_)
    pooled, lines = fit_lines(learned.inputs.apps, learned.inputs.log_uil, logs, natural)
    fitted, _ = predict_lines(learned.inputs.apps, learned.inputs.log_uil, pooled, lines)
    location, _ = predict_lines(test.inputs.apps, test.inputs.log_uil, pooled, lines)
    quantiles = residual_quantiles(location, test.names, logs - fitted, learned.names)
    means = Forecast.of(quantiles)
    return Forecast(log_quantiles=quantiles, location=location, mean=means.mean)


def _input_length_feature(requests: EvaluationRequests) -> NDArray[np.float32]:
    return requests.inputs.log_uil[:, None].astype(np.float32)


def _means_by_app(learned: NDArray[np.str_], values: Floats, names: NDArray[np.str_]) -> Floats:
    """For each of `names` the mean of its values; of all values for a name not learned."""
    known = {str(name): float(values[learned == name].mean()) for name in np.unique(learned)}
    everything = float(values.mean())
    return np.array([known.get(str(name), everything) for name in names])
