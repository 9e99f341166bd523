"""Predictions with and without the form, by a trained version and by the length history alone."""

from typing import Final

import numpy as np

from benchmarks.form.mixed_lines import folds, without_forms
from gateway.evaluation.arrivals import TENANT, EvaluationRequests
from gateway.evaluation.forecast import Forecast
from gateway.evaluation.lengths import MAX_TOKENS
from gateway.evaluation.ours import ProductModel
from gateway.prediction.adaptation.conformal import CALIBRATED_LEVELS
from gateway.prediction.adaptation.source_bands import SourceBands
from gateway.prediction.features.length_history import LengthHistory, LengthOutcome

VERSION: Final = "version"
HISTORY: Final = "history"


def by_history(requests: EvaluationRequests) -> Forecast:
    """What a gateway without a version serves: each request by the outcomes of those before it.

    The quantiles are not limited to `max_tokens`.
    """
    lengths, bands = LengthHistory(), SourceBands()
    served = []
    columns = zip(
        requests.lines,
        requests.inputs.apps,
        requests.tokens.astype(int).tolist(),
        requests.censored.tolist(),
        requests.max_tokens.astype(int).tolist(),
        strict=True,
    )
    for second, (line, app, tokens, censored, limit) in enumerate(columns):
        now = float(second)
        found = lengths.history(
            tenant=TENANT, app=app, end_user=None, max_tokens=limit, now=now, form=line.form
        )
        levels = found.app.quantiles
        served.append(bands.serve(found.source, app, levels, MAX_TOKENS, form=line.form))
        upper = levels[-len(CALIBRATED_LEVELS) :]
        bands.learn(found.source, app, upper, tokens, censored=censored, form=line.form)
        lengths.learn(LengthOutcome(TENANT, app, None, tokens, censored, now, line.form))
    return Forecast.of(np.log(np.array(served)))


def by_version(
    requests: EvaluationRequests, threads: int
) -> tuple[EvaluationRequests, Forecast, Forecast]:
    """The requests in the order of their folds, and their forecasts with and without the form."""
    tested, with_form, without = [], [], []
    for train, test in folds(requests):
        tested.append(test)
        with_form.append(ProductModel(threads).forecast(train, test))
        blind = without_forms(train), without_forms(test)
        without.append(ProductModel(threads).forecast(*blind))
    return joined(tested), Forecast.concatenate(with_form), Forecast.concatenate(without)


def joined(parts: list[EvaluationRequests]) -> EvaluationRequests:
    """Lines, names and lengths of n ≥ 1 parts, one after the other; the inputs of the first."""
    return EvaluationRequests(
        lines=[line for part in parts for line in part.lines],
        names=np.concatenate([part.names for part in parts]),
        inputs=parts[0].inputs,
        tokens=np.concatenate([part.tokens for part in parts]),
        max_tokens=np.concatenate([part.max_tokens for part in parts]),
    )
