"""A point of the learning curve: losses of predictors trained on as many rows, by test line."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.evaluation.arrivals import EvaluationRequests
from gateway.evaluation.baselines import app_median, line_per_app
from gateway.evaluation.forecast import Forecast
from gateway.evaluation.ours import ProductModel, serve
from gateway.prediction.adaptation.adaptation import Adaptation
from gateway.prediction.model.heads import PredictedLengths
from gateway.prediction.training.scorecard import covered, kendall_tau, pinball_losses
from gateway.quantiles import MEDIAN, P90, Floats

OURS: Final = "ours"
LINE: Final = "line"
ADAPTED_LINE: Final = "line, adapted"
APP_QUANTILES: Final = "app quantiles"
RESAMPLES: Final = 1_000

Draw = Callable[[int, int], tuple[EvaluationRequests, EvaluationRequests]]
"""Requests to train on and to test on, for a number of rows and a seed."""


@dataclass(frozen=True)
class Judged:
    """Of n test requests: names of their apps, and by predictor the mean pinball loss, (n,)."""

    lines: list[str]
    names: NDArray[np.str_]
    losses: dict[str, Floats]
    coverage: float
    tau: dict[str, float]


def judge(train: EvaluationRequests, test: EvaluationRequests, threads: int) -> Judged:
    """Train each predictor on the one part and judge it on the other.

    Forecasts are limited to `max_tokens`. The adapted line learns from each outcome as ours does.
    """
    line = line_per_app(train, test)
    forecasts = {
        OURS: ProductModel(threads).forecast(train, test),
        LINE: line,
        ADAPTED_LINE: _adapted(line, train, test),
        APP_QUANTILES: app_median(train, test),
    }
    logs = np.log(test.tokens)
    capped = {name: each.capped(test.max_tokens) for name, each in forecasts.items()}
    return Judged(
        lines=[f"{line.app} {line.input}" for line in test.lines],
        names=test.names,
        losses={
            name: pinball_losses(logs, each.log_quantiles).mean(axis=1)
            for name, each in capped.items()
        },
        coverage=float(covered(test.tokens, np.exp(capped[OURS].log_quantiles[:, P90])).mean()),
        tau={
            name: kendall_tau(test.tokens, each.log_quantiles[:, MEDIAN])
            for name, each in capped.items()
        },
    )


def _adapted(line: Forecast, train: EvaluationRequests, test: EvaluationRequests) -> Forecast:
    predicted = PredictedLengths(line.log_quantiles, line.mean)
    return serve(predicted, test, Adaptation(train.inputs.apps))


def mean_by_line(judged: list[Judged], predictor: str, app: str | None = None) -> dict[str, float]:
    """The mean loss of each test line over the seeds, of one app or of all."""
    found: dict[str, list[float]] = {}
    for each in judged:
        for line, name, loss in zip(
            each.lines, each.names.tolist(), each.losses[predictor].tolist(), strict=True
        ):
            if app in (None, name):
                found.setdefault(line, []).append(loss)
    return {line: sum(losses) / len(losses) for line, losses in found.items()}


def ratio(ours: dict[str, float], theirs: dict[str, float]) -> tuple[float, float, float]:
    """Mean loss over mean loss on the same lines, with its 95 % interval (bootstrap of lines)."""
    pairs = np.array([(ours[line], theirs[line]) for line in ours])
    random = np.random.default_rng(1)
    drawn = np.array(list(_resampled(pairs, random)))
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975]).tolist()
    mine, other = pairs.mean(axis=0).tolist()
    return mine / other, low, high


def _resampled(pairs: Floats, random: np.random.Generator) -> Iterator[Floats]:
    for _ in range(RESAMPLES):
        yield pairs[random.integers(0, len(pairs), len(pairs))].mean(axis=0)
