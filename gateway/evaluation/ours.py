"""The product's length model, trained, calibrated and adapted as in production."""

from time import perf_counter
from typing import Final

import numpy as np

from gateway.evaluation.arrivals import EvaluationRequests
from gateway.evaluation.forecast import Forecast
from gateway.evaluation.lengths import MAX_TOKENS
from gateway.prediction.adaptation.adaptation import Adaptation, ScoredOutcome
from gateway.prediction.adaptation.conformal import ConformityScores, initial_scores
from gateway.prediction.expectation import expected_log, limited_mean
from gateway.prediction.model.artefact import FitSettings
from gateway.prediction.model.heads import PredictedLengths
from gateway.prediction.model.length_model import FittedModel, LengthModel, fit
from gateway.quantiles import Floats

HELD_OUT_SHARE: Final = 0.15  # newest training requests, for the initial conformity scores


class ProductModel:
    """The product's length model; `fit_s` is the duration of the last full fit, in seconds."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self.fit_s = 0.0

    def forecast(self, train: EvaluationRequests, test: EvaluationRequests) -> Forecast:
        """The predictions that the product would have served for the test requests, in order.

        Initial conformity scores come from a model of the older training requests on the newest;
        each test request is then corrected and calibrated by the outcomes before it. `location`
        is that of the corrected quantiles before calibration. It and the mean are those of what is
        generated within `max_tokens`; the quantiles have no limit.
        """
        model, start = self.fitted(train)
        return serve(model.predict(test.inputs), test, Adaptation(train.inputs.strata, start))

    def fitted(self, train: EvaluationRequests) -> tuple[LengthModel, ConformityScores]:
        """The model of the training requests, and the conformity scores that it starts with."""
        older = len(train) - round(HELD_OUT_SHARE * len(train))
        newest = train.rows(slice(older, None))
        first = self._fit(train.rows(slice(older)))
        start = scores(LengthModel(first).predict(newest.inputs).quantiles, newest)
        began = perf_counter()
        model = LengthModel(self._fit(train, first.settings))
        self.fit_s = perf_counter() - began
        return model, start

    def _fit(self, train: EvaluationRequests, settings: FitSettings | None = None) -> FittedModel:
        columns = train.inputs, train.tokens, train.censored
        return fit(*columns, threads=self._threads, settings=settings)


def scores(log_quantiles: Floats, requests: EvaluationRequests) -> ConformityScores:
    """Conformity scores of predictions (n, len(LEVELS)) for ended requests."""
    return initial_scores(requests.inputs.strata, log_quantiles, requests.tokens, requests.censored)


def serve(
    predicted: PredictedLengths,
    requests: EvaluationRequests,
    adaptation: Adaptation,
    *,
    learn: bool = True,
) -> Forecast:
    """The served forecast: raw predictions, adapted after each outcome if they `learn`."""
    served = np.empty_like(predicted.quantiles)
    corrected = np.empty_like(predicted.quantiles)
    mean = np.empty(len(requests))
    columns = (
        requests.inputs.strata,
        requests.inputs.log_uil.tolist(),
        predicted.quantiles.tolist(),
        requests.tokens.astype(int).tolist(),
        requests.censored.tolist(),
        requests.max_tokens.tolist(),
    )
    for row, (app, log_uil, levels, tokens, censored, limit) in enumerate(
        zip(*columns, strict=True)
    ):
        served[row] = adaptation.serve(app, log_uil, levels, MAX_TOKENS)
        corrected[row] = adaptation.corrected(app, log_uil, levels)
        shifted = predicted.mean[row] * np.exp(adaptation.shift(app, log_uil, levels))
        mean[row] = limited_mean(shifted, np.exp(corrected[row]).tolist(), limit)
        if learn:
            adaptation.learn(ScoredOutcome.of(app, log_uil, levels, tokens, censored=censored))
    return Forecast(
        log_quantiles=np.log(served),
        location=expected_log(np.minimum(np.exp(corrected), requests.max_tokens[:, None])),
        mean=mean,
    )
