"""P3 (a): an app without training data, from its first request to the first retraining."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.harness.report import Row
from benchmarks.p3.world import (
    ScoredRequests,
    TrainedVersion,
    app_ids,
    concatenate,
    first_rows_per_app,
    fit_version,
    log_residuals,
    replay,
    scored_requests,
    select_rows,
    serve_only,
)
from gateway.evaluation.arrivals import EvaluationRequests
from gateway.evaluation.baselines import input_length
from gateway.evaluation.scoring import log_errors
from gateway.evaluation.sentences import Progress
from gateway.prediction.adaptation.adaptation import Adaptation
from gateway.prediction.model.heads import from_log1p
from gateway.prediction.model.unseen_apps import UnseenAppsModel, fit_unseen_apps
from gateway.prediction.training.scorecard import rms
from gateway.quantiles import Floats

OUTCOME_COUNTS: Final = (10, 25, 50, 100)
ORDERS: Final = 5
TAUGHT_OUTCOMES: Final = 50
RETRAINED_ROWS: Final = 600  # per other app, in retraining
POOLED: Final = "pooled"


@dataclass(frozen=True)
class NewApp:
    """Residuals of log(1 + tokens) on an app's test lines.

    (n,) each: `simple` by input length alone, `first` before any outcome, `full` of a version
    trained on all apps. (orders, n) each: `after` a number of outcomes, and `retrained`. `covered`
    is the share of lengths within the 0.9 quantile after TAUGHT_OUTCOMES, `on_the_way` that among
    these outcomes.
    """

    app: str
    simple: Floats
    first: Floats
    full: Floats
    after: dict[int, Floats]
    retrained: Floats
    covered: float
    on_the_way: float


def new_apps(
    train: EvaluationRequests,
    test: EvaluationRequests,
    full: TrainedVersion,
    progress: Progress,
    threads: int,
) -> Iterator[NewApp]:
    """Each app in turn left out of training."""
    for app in np.unique(test.names).tolist():
        progress(f"(a) {app} is new")
        yield _new_app(app, train, test, full, threads)


def _new_app(
    app: str,
    train: EvaluationRequests,
    test: EvaluationRequests,
    full: TrainedVersion,
    threads: int,
) -> NewApp:
    others, own = select_rows(train, train.names != app), select_rows(train, train.names == app)
    mine = select_rows(test, test.names == app)
    known = app_ids(np.unique(others.names).tolist())
    unseen_model = _unseen_model(others, threads)
    learned_requests = scored_requests(
        own, from_log1p(np.sort(unseen_model.predict(own.inputs), axis=1))
    )
    test_requests = scored_requests(
        mine, from_log1p(np.sort(unseen_model.predict(mine.inputs), axis=1))
    )
    after: dict[int, list[Floats]] = {count: [] for count in OUTCOME_COUNTS}
    covered, on_the_way = [], []
    for order in _orders(len(own)):
        adaptation, before = Adaptation(known), 0
        for count in OUTCOME_COUNTS:
            served = replay(adaptation, learned_requests.rows(order[before:count]))
            before = count
            after[count].append(log_residuals(adaptation, test_requests))
            if count <= TAUGHT_OUTCOMES:
                on_the_way += served.covered.tolist()
            if count == TAUGHT_OUTCOMES:
                covered.append(float(serve_only(adaptation, test_requests).covered.mean()))
    return NewApp(
        app=app,
        simple=log_errors(mine.tokens, input_length(others, mine, threads)),
        first=log_residuals(Adaptation(known), test_requests),
        full=log_residuals(full.adaptation(), full.score(mine)),
        after={count: np.array(each) for count, each in after.items()},
        retrained=_retrained(others, own, mine, threads),
        covered=float(np.mean(covered)),
        on_the_way=float(np.mean(on_the_way)),
    )


def _unseen_model(others: EvaluationRequests, threads: int) -> UnseenAppsModel:
    """The model of unseen apps, trained on these apps; the only part of a version needed here."""
    count = len(others)
    logs, natural = np.log1p(others.tokens), np.zeros(count, dtype=np.bool_)
    weights = np.ones(count)
    return UnseenAppsModel(fit_unseen_apps(others.inputs, logs, natural, weights, threads=threads))


def _retrained(
    others: EvaluationRequests, own: EvaluationRequests, mine: EvaluationRequests, threads: int
) -> Floats:
    """Residuals after retraining on TAUGHT_OUTCOMES rows of the app and some of each other."""
    taught = select_rows(own, _orders(len(own))[0][:TAUGHT_OUTCOMES])
    version = fit_version(
        concatenate(select_rows(others, first_rows_per_app(others.names, RETRAINED_ROWS)), taught),
        threads,
    )
    stream: ScoredRequests = version.score(mine)
    return log_residuals(version.adaptation(), stream)[None]


def _orders(count: int) -> list[np.ndarray[tuple[int], np.dtype[np.intp]]]:
    return [np.random.default_rng(seed).permutation(count) for seed in range(ORDERS)]


def new_app_rows(found: list[NewApp]) -> list[Row]:
    """log-RMSE of each app, and of all lines pooled."""
    rows = [_row(each) for each in found]
    pooled = NewApp(
        app=POOLED,
        simple=np.concatenate([each.simple for each in found]),
        first=np.concatenate([each.first for each in found]),
        full=np.concatenate([each.full for each in found]),
        after={
            count: np.concatenate([each.after[count] for each in found], axis=1)
            for count in OUTCOME_COUNTS
        },
        retrained=np.concatenate([each.retrained for each in found], axis=1),
        covered=float(np.mean([each.covered for each in found])),
        on_the_way=float(np.mean([each.on_the_way for each in found])),
    )
    return [*rows, _row(pooled)]


def _row(each: NewApp) -> Row:
    simple, first, full = rms(each.simple), rms(each.first), rms(each.full)
    after = {count: _mean_rms(residuals) for count, residuals in each.after.items()}
    retrained = _mean_rms(each.retrained)
    return {
        "new app": each.app,
        "input length": simple,
        "first request": first,
        "first/input length": first / simple,
        "full training": full,
        **{f"after {count}": value for count, value in after.items()},
        f"after {TAUGHT_OUTCOMES}/full": after[TAUGHT_OUTCOMES] / full,
        "retrained": retrained,
        "retrained/full": retrained / full,
        f"P90 covers, first {TAUGHT_OUTCOMES}": each.on_the_way,
        f"P90 covers, after {TAUGHT_OUTCOMES}": each.covered,
    }


def _mean_rms(residuals: Floats) -> float:
    return float(np.mean([rms(each) for each in residuals]))
