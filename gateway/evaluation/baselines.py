"""Baseline predictors: by input length, by the app's mean or median, by a line per app."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gateway.evaluation.arrivals import EvaluationRequests
from gateway.evaluation.forecast import Forecast, residual_quantiles
from gateway.prediction.model.app_lines import fit_lines, predict_lines
from gateway.prediction.model.heads import MEAN_ROUNDS, MEAN_SHAPE, from_log1p
from gateway.prediction.model.trees import (
    Targets,
    cross_fit,
    fit_mean,
    fit_trees,
    left_out_parts,
    read_trees,
)
from gateway.quantiles import Floats

Statistic: TypeAlias = Callable[[Floats], np.floating[Any]]

INPUT_LENGTH: Final = "input length"
APP_MEAN: Final = "app mean"
APP_MEDIAN: Final = "app median"
LINE_PER_APP: Final = "line per app"


def input_length(train: EvaluationRequests, test: EvaluationRequests, threads: int) -> Forecast:
    """The product's tree heads with the same parameters, on log(1 + user input length) alone."""
    train_features, test_features, weights = (
        _input_length_feature(train),
        _input_length_feature(test),
        np.ones(len(train)),
    )
    targets = Targets(np.arange(len(train)), np.log1p(train.tokens), weights)
    parts = left_out_parts(len(train))
    rounds = cross_fit(train_features, targets, parts, threads=threads).rounds
    texts = fit_trees(train_features, targets, rounds, threads=threads)
    mean = fit_mean(
        train_features, train.tokens, weights, MEAN_ROUNDS, threads=threads, **MEAN_SHAPE
    )
    *levels, tokens = [head.score(test_features) for head in read_trees([*texts, mean])]
    found = Forecast.of(from_log1p(np.sort(np.stack(levels, axis=1), axis=1)))
    return replace(found, mean=(found.mean + np.maximum(tokens, 1.0)) / 2)


def app_mean(train: EvaluationRequests, test: EvaluationRequests) -> Forecast:
    """The mean length of an app's training requests, with their quantiles."""
    return _constant_per_app(train, test, np.mean)


def app_median(train: EvaluationRequests, test: EvaluationRequests) -> Forecast:
    """The median length of an app's training requests, with their quantiles."""
    return _constant_per_app(train, test, np.median)


def line_per_app(train: EvaluationRequests, test: EvaluationRequests) -> Forecast:
    """The regression line per app on log lengths, with the quantiles of its residuals."""
    logs = np.log1p(train.tokens)
    natural = np.zeros(len(train), dtype=np.bool_)
    pooled, lines = fit_lines(train.inputs.apps, train.inputs.log_uil, logs, natural)
    fitted, _ = predict_lines(train.inputs.apps, train.inputs.log_uil, pooled, lines)
    location, _ = predict_lines(test.inputs.apps, test.inputs.log_uil, pooled, lines)
    quantiles = residual_quantiles(location, test.names, logs - fitted, train.names)
    means = Forecast.of(quantiles)
    return Forecast(log_quantiles=quantiles, location=location, mean=means.mean)


def _input_length_feature(requests: EvaluationRequests) -> NDArray[np.float32]:
    return requests.inputs.log_uil[:, None].astype(np.float32)


def _constant_per_app(
    train: EvaluationRequests, test: EvaluationRequests, statistic: Statistic
) -> Forecast:
    logs = np.log1p(train.tokens)
    fitted = _by_app(train.names, logs, train.names, statistic)
    location = _by_app(train.names, logs, test.names, statistic)
    return Forecast(
        log_quantiles=residual_quantiles(location, test.names, logs - fitted, train.names),
        location=location,
        mean=_by_app(train.names, train.tokens, test.names, statistic),
    )


def _by_app(
    train: NDArray[np.str_], values: Floats, names: NDArray[np.str_], statistic: Statistic
) -> Floats:
    """For each of `names` the statistic of its training values; of all if it has none."""
    found = {str(name): float(statistic(values[train == name])) for name in np.unique(train)}
    overall = float(statistic(values))
    return np.array([found.get(str(name), overall) for name in names])
