"""Versions as the product makes them, and outcomes that reach them one after another."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from gateway.evaluation.arrivals import MAX_TOKENS, EvaluationRequests, app_id
from gateway.evaluation.ours import scores
from gateway.prediction.adaptation.adaptation import Adaptation, ScoredOutcome
from gateway.prediction.adaptation.conformal import NO_SCORES, ConformityScores
from gateway.prediction.expectation import expected_log
from gateway.prediction.model.length_model import LengthModel, fit
from gateway.prediction.training.fitting import HELD_OUT_SHARE
from gateway.quantiles import MEDIAN, P90, Bools, Floats

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Asked:
    """n requests and what a version says of them: ln quantiles `scored` (n, len(LEVELS))."""

    apps: list[UUID]
    log_uil: Floats
    scored: Floats
    tokens: Floats

    def __len__(self) -> int:
        return len(self.apps)

    def rows(self, which: Rows | slice) -> "Asked":
        """Some of the requests, possibly several times."""
        part = np.arange(len(self))[which]
        return Asked(
            [self.apps[row] for row in part.tolist()],
            self.log_uil[part],
            self.scored[part],
            self.tokens[part],
        )

    def lasting(self, tokens: Floats) -> "Asked":
        """The same requests with other lengths."""
        return Asked(self.apps, self.log_uil, self.scored, tokens)


@dataclass(frozen=True)
class Served:
    """What n requests were told in tokens, (n,), before their lengths were known."""

    median: Floats
    p90: Floats
    tokens: Floats

    @property
    def covered(self) -> Bools:
        """Whether the 0.9 quantile was enough."""
        return np.asarray(self.tokens <= self.p90)

    def rows(self, part: slice) -> "Served":
        """Some of the requests."""
        return Served(self.median[part], self.p90[part], self.tokens[part])


@dataclass(frozen=True)
class Version:
    """A fitted model, the apps it was trained on, and what its calibration begins with."""

    model: LengthModel
    known: frozenset[UUID]
    start: ConformityScores

    def asked(self, requests: EvaluationRequests) -> Asked:
        """What it says of requests."""
        return asked(requests, self.model.predict(requests.inputs).quantiles)

    def adaptation(self) -> Adaptation:
        """The state in which it comes into use."""
        return Adaptation(self.known, self.start)


def make_version(requests: EvaluationRequests, threads: int) -> Version:
    """Fitted on the older rows, calibrated on the newest, as training fits."""
    older = len(requests) - round(HELD_OUT_SHARE * len(requests))
    past, newest = requests.rows(slice(older)), requests.rows(slice(older, None))
    found = fitted(past, threads)
    return Version(
        found.model, found.known, scores(found.model.predict(newest.inputs).quantiles, newest)
    )


def fitted(requests: EvaluationRequests, threads: int) -> Version:
    """Fitted on all rows, with nothing to begin calibration with."""
    natural = np.zeros(len(requests), dtype=np.bool_)
    model = LengthModel(fit(requests.inputs, requests.tokens, natural, threads=threads))
    return Version(model, frozenset(requests.inputs.apps), NO_SCORES)


def asked(requests: EvaluationRequests, scored: Floats) -> Asked:
    """Requests with ln quantiles that somebody says of them."""
    return Asked(requests.inputs.apps, requests.inputs.log_uil, scored, requests.tokens)


def replay(adaptation: Adaptation, stream: Asked) -> Served:
    """Serve each request and learn its outcome before the next."""
    told = np.empty((len(stream), 2))
    for row, (app, log_uil, levels, tokens) in enumerate(_each(stream)):
        quantiles = adaptation.serve(app, log_uil, levels, MAX_TOKENS)
        told[row] = quantiles[MEDIAN], quantiles[P90]
        adaptation.learn(ScoredOutcome.of(app, log_uil, levels, int(tokens), censored=False))
    return Served(told[:, 0], told[:, 1], stream.tokens)


def serve(adaptation: Adaptation, stream: Asked) -> Served:
    """Serve each request and learn nothing."""
    told = [
        adaptation.serve(app, log_uil, levels, MAX_TOKENS)
        for app, log_uil, levels, _ in _each(stream)
    ]
    found = np.array(told)
    return Served(found[:, MEDIAN], found[:, P90], stream.tokens)


def log_misses(adaptation: Adaptation, stream: Asked) -> Floats:
    """log(1 + tokens) less what is expected after correction, (n,)."""
    moved = [
        adaptation.corrected(app, log_uil, levels) for app, log_uil, levels, _ in _each(stream)
    ]
    misses: Floats = np.log1p(stream.tokens) - expected_log(np.exp(np.array(moved)))
    return misses


def _each(stream: Asked) -> Iterator[tuple[UUID, float, list[float], float]]:
    """App, input's length, what was said and the length, request by request."""
    columns = stream.log_uil.tolist(), stream.scored.tolist(), stream.tokens.tolist()
    return zip(stream.apps, *columns, strict=True)


def part(requests: EvaluationRequests, rows: Rows | Bools) -> EvaluationRequests:
    """Some of the requests, by number or by mask."""
    which = np.flatnonzero(rows) if rows.dtype == np.bool_ else np.asarray(rows, dtype=np.intp)
    return EvaluationRequests(
        lines=[requests.lines[row] for row in which.tolist()],
        names=requests.names[which],
        inputs=requests.inputs.rows(which),
        tokens=requests.tokens[which],
    )


def joined(first: EvaluationRequests, second: EvaluationRequests) -> EvaluationRequests:
    """Two parts of the same requests as one, the second being newer."""
    one, two = first.inputs, second.inputs
    return EvaluationRequests(
        lines=[*first.lines, *second.lines],
        names=np.concatenate((first.names, second.names)),
        inputs=type(one)(
            apps=[*one.apps, *two.apps],
            features=np.concatenate((one.features, two.features)),
            instructions=one.instructions,
            instruction_of=np.concatenate((one.instruction_of, two.instruction_of)),
            text=np.concatenate((one.text, two.text)),
        ),
        tokens=np.concatenate((first.tokens, second.tokens)),
    )


def at_most(names: NDArray[np.str_], most: int) -> Rows:
    """The first `most` rows of each app, rising."""
    rows = [np.flatnonzero(names == name)[:most] for name in np.unique(names)]
    return np.sort(np.concatenate(rows))


def of_apps(names: NDArray[np.str_], apps: Sequence[str]) -> Bools:
    """Which rows belong to these apps, (n,)."""
    return np.isin(names, list(apps))


def ids(apps: Sequence[str]) -> frozenset[UUID]:
    """The ids of apps."""
    return frozenset(app_id(app) for app in apps)


def rolling(values: NDArray[np.float64], window: int) -> Floats:
    """Means over the last `window` (n - window + 1,) of values (n,)."""
    sums = np.cumsum(np.concatenate(([0.0], values)))
    means: Floats = (sums[window:] - sums[:-window]) / window
    return means


def settled(within: Bools) -> int | None:
    """The first place from which all are true; None where there is none."""
    wrong = np.flatnonzero(~within)
    first = int(wrong[-1]) + 1 if len(wrong) else 0
    return first if first < len(within) else None


Say = Callable[[str], None]
WINDOW: Final = 100  # outcomes that a rolling coverage is measured over
PROMISED: Final = 0.9
TOLERANCE: Final = 0.03


def back(covered: Floats) -> tuple[int | None, Floats]:
    """After how many outcomes coverage is within tolerance and stays, and its rolling means.

    `covered` (orders, n): the means are over WINDOW outcomes and all orders.
    """
    means = rolling(covered.mean(axis=0), WINDOW)
    place = settled(np.abs(means - PROMISED) <= TOLERANCE)
    return None if place is None else place + WINDOW, means
