"""What each part of the length model's inputs is worth: fitted without it, then with it.

The embedding of an instruction is meant for apps that were not trained on: `apps left out in turn`
judges each app by a model of all others, without and with it.
"""

from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean
from typing import Final

import numpy as np

from benchmarks.harness.report import Row
from benchmarks.p1.rows import family_mean
from gateway.evaluation.arrivals import EvaluationRequests
from gateway.evaluation.ours import ProductModel
from gateway.evaluation.scoring import POOLED, DetailedScorecard, score_apps
from gateway.prediction.model.inputs import ModelInputs
from gateway.prediction.model.unseen_apps import UnseenAppsModel, fit_unseen_apps

LENGTH: Final = "length"
TEXT: Final = "+ text vectors"
INPUT: Final = "+ user-level embedding"
INSTRUCTION: Final = "+ app-level embedding"
HISTORY: Final = "+ history"


def without(inputs: ModelInputs, *columns: str) -> ModelInputs:
    """The inputs without these vectors: as if they were not computed."""
    missing = {name: np.full_like(getattr(inputs, name), np.nan) for name in columns}
    return replace(inputs, **missing)


def ablation_rows(
    train: EvaluationRequests,
    test: EvaluationRequests,
    full: dict[str, DetailedScorecard],
    threads: int,
) -> Iterator[Row]:
    """A row for each part of the inputs; `full` are the scores with all of them."""
    missing = {
        LENGTH: ("text", "sentences", "instructions"),
        TEXT: ("sentences", "instructions"),
        INPUT: ("instructions",),
    }
    for name, columns in missing.items():
        parts = [
            replace(requests, inputs=without(requests.inputs, *columns))
            for requests in (train, test)
        ]
        forecast = ProductModel(threads).forecast(*parts).capped(test.max_tokens)
        yield ablation_row(name, score_apps(test.names, test.tokens, forecast))
    yield ablation_row(INSTRUCTION, full)


def ablation_row(name: str, cards: dict[str, DetailedScorecard]) -> Row:
    """The row of a model that reads this part, too."""
    card = cards[POOLED]
    return {
        "inputs": name,
        "log_rmse_mean": card.log_rmse_mean,
        "token_rmse": card.token_rmse,
        "τ": card.tau,
        "τ proportional": family_mean(cards, "proportional", "tau"),
        "τ open": family_mean(cards, "open", "tau"),
        "pinball": card.pinball,
        "coverage": card.coverage,
    }


def unseen_app_rows(train: EvaluationRequests, threads: int) -> Iterator[Row]:
    """log-RMSE of apps that the model was not fitted on, without their history."""
    logs, errors = np.log1p(train.tokens), dict[str, list[float]]()
    for app in np.unique(train.names):
        own, others = (np.flatnonzero(found) for found in (train.names == app, train.names != app))
        fitted = UnseenAppsModel(
            fit_unseen_apps(
                train.inputs.rows(others),
                logs[others],
                train.censored[others],
                np.ones(len(others)),
                threads=threads,
            )
        )
        given = train.inputs.rows(own)
        for name, inputs in ((TEXT, without(given, "instructions")), (INSTRUCTION, given)):
            error = float(np.sqrt(np.mean((logs[own] - fitted.centre(inputs)) ** 2)))
            errors.setdefault(name, []).append(error)
    for name, found in errors.items():
        yield {"apps left out in turn": name, "log_rmse": fmean(found), "worst": max(found)}
