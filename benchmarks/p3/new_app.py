"""P3 (a): an app that training did not see, from its first request to its first retraining."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.harness.report import Row
from benchmarks.p3.world import (
    Asked,
    Say,
    Version,
    asked,
    at_most,
    fitted,
    ids,
    joined,
    log_misses,
    part,
    replay,
    serve,
)
from gateway.evaluation.arrivals import EvaluationRequests
from gateway.evaluation.baselines import input_length
from gateway.evaluation.scoring import log_errors
from gateway.prediction.adaptation.adaptation import Adaptation
from gateway.prediction.model.length_model import from_log1p
from gateway.prediction.model.unseen_apps import UnseenAppsModel, fit_unseen_apps
from gateway.prediction.training.scorecard import rms
from gateway.quantiles import Floats

OUTCOMES: Final = (10, 25, 50, 100)
ORDERS: Final = 5
TAUGHT: Final = 50
RETRAINED_ROWS: Final = 600  # of each other app, where a version is trained again
POOLED: Final = "pooled"


@dataclass(frozen=True)
class NewApp:
    """Misses of log(1 + tokens) on an app's test lines.

    `simple` by input length alone, `first` before any outcome, `full` of a version trained on all
    apps, (n,) each; `after` so many outcomes and `retrained` for each order of them, (orders, n).
    `covered` is the share of lengths within the 0.9 quantile after TAUGHT outcomes, `on_the_way`
    that among these.
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
    train: EvaluationRequests, test: EvaluationRequests, full: Version, say: Say, threads: int
) -> Iterator[NewApp]:
    """Each app in turn left out of training."""
    for app in np.unique(test.names).tolist():
        say(f"(a) {app} is new")
        yield _new_app(app, train, test, full, threads)


def _new_app(
    app: str, train: EvaluationRequests, test: EvaluationRequests, full: Version, threads: int
) -> NewApp:
    others, own = part(train, train.names != app), part(train, train.names == app)
    mine = part(test, test.names == app)
    known = ids(np.unique(others.names).tolist())
    speaks = _newcomer(others, threads)
    teaching = asked(own, from_log1p(np.sort(speaks.predict(own.inputs), axis=1)))
    waiting = asked(mine, from_log1p(np.sort(speaks.predict(mine.inputs), axis=1)))
    after: dict[int, list[Floats]] = {count: [] for count in OUTCOMES}
    covered, on_the_way = [], []
    for order in _orders(len(own)):
        adaptation, before = Adaptation(known), 0
        for count in OUTCOMES:
            served = replay(adaptation, teaching.rows(order[before:count]))
            before = count
            after[count].append(log_misses(adaptation, waiting))
            if count <= TAUGHT:
                on_the_way += served.covered.tolist()
            if count == TAUGHT:
                covered.append(float(serve(adaptation, waiting).covered.mean()))
    return NewApp(
        app=app,
        simple=log_errors(mine.tokens, input_length(others, mine, threads)),
        first=log_misses(Adaptation(known), waiting),
        full=log_misses(full.adaptation(), full.asked(mine)),
        after={count: np.array(each) for count, each in after.items()},
        retrained=_retrained(others, own, mine, threads),
        covered=float(np.mean(covered)),
        on_the_way=float(np.mean(on_the_way)),
    )


def _newcomer(others: EvaluationRequests, threads: int) -> UnseenAppsModel:
    """What a version of these apps says of all others: nothing else of it is asked."""
    count = len(others)
    logs, natural = np.log1p(others.tokens), np.zeros(count, dtype=np.bool_)
    weights = np.ones(count)
    return UnseenAppsModel(fit_unseen_apps(others.inputs, logs, natural, weights, threads=threads))


def _retrained(
    others: EvaluationRequests, own: EvaluationRequests, mine: EvaluationRequests, threads: int
) -> Floats:
    """After one more training that reads TAUGHT rows of the app, and some of each other."""
    taught = part(own, _orders(len(own))[0][:TAUGHT])
    version = fitted(joined(part(others, at_most(others.names, RETRAINED_ROWS)), taught), threads)
    stream: Asked = version.asked(mine)
    return log_misses(version.adaptation(), stream)[None]


def _orders(count: int) -> list[np.ndarray[tuple[int], np.dtype[np.intp]]]:
    return [np.random.default_rng(seed).permutation(count) for seed in range(ORDERS)]


def new_app_rows(found: list[NewApp]) -> list[Row]:
    """log-RMSE of each app, and of all lines together."""
    rows = [_row(each) for each in found]
    pooled = NewApp(
        app=POOLED,
        simple=np.concatenate([each.simple for each in found]),
        first=np.concatenate([each.first for each in found]),
        full=np.concatenate([each.full for each in found]),
        after={
            count: np.concatenate([each.after[count] for each in found], axis=1)
            for count in OUTCOMES
        },
        retrained=np.concatenate([each.retrained for each in found], axis=1),
        covered=float(np.mean([each.covered for each in found])),
        on_the_way=float(np.mean([each.on_the_way for each in found])),
    )
    return [*rows, _row(pooled)]


def _row(each: NewApp) -> Row:
    simple, first, full = rms(each.simple), rms(each.first), rms(each.full)
    after = {count: _mean_rms(misses) for count, misses in each.after.items()}
    retrained = _mean_rms(each.retrained)
    return {
        "new app": each.app,
        "input length": simple,
        "first request": first,
        "first/input length": first / simple,
        "full training": full,
        **{f"after {count}": value for count, value in after.items()},
        f"after {TAUGHT}/full": after[TAUGHT] / full,
        "retrained": retrained,
        "retrained/full": retrained / full,
        f"P90 covers, first {TAUGHT}": each.on_the_way,
        f"P90 covers, after {TAUGHT}": each.covered,
    }


def _mean_rms(misses: Floats) -> float:
    return float(np.mean([rms(each) for each in misses]))
