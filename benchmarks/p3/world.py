"""Versions trained as in production, and streams of outcomes that they adapt to."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from gateway.evaluation.arrivals import EvaluationRequests, app_id
from gateway.evaluation.lengths import MAX_TOKENS
from gateway.evaluation.ours import scores
from gateway.prediction.adaptation.adaptation import Adaptation, ScoredOutcome
from gateway.prediction.adaptation.conformal import NO_SCORES, ConformityScores
from gateway.prediction.expectation import expected_log
from gateway.prediction.model.length_model import LengthModel, fit
from gateway.prediction.training.fitting import HELD_OUT_SHARE
from gateway.quantiles import MEDIAN, P90, Bools, Floats

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class ScoredRequests:
    """n requests with a version's raw ln quantiles `scored`, (n, len(LEVELS))."""

    apps: list[UUID]
    log_uil: Floats
    scored: Floats
    tokens: Floats

    def __len__(self) -> int:
        return len(self.apps)

    def rows(self, which: Rows | slice) -> "ScoredRequests":
        """The requests with these indices, repetitions allowed."""
        part = np.arange(len(self))[which]
        return ScoredRequests(
            [self.apps[row] for row in part.tolist()],
            self.log_uil[part],
            self.scored[part],
            self.tokens[part],
        )

    def with_tokens(self, tokens: Floats) -> "ScoredRequests":
        """The same requests with other actual lengths."""
        return ScoredRequests(self.apps, self.log_uil, self.scored, tokens)


@dataclass(frozen=True)
class ServedQuantiles:
    """Median and 0.9 quantile served for n requests, and their actual lengths, in tokens, (n,)."""

    median: Floats
    p90: Floats
    tokens: Floats

    @property
    def covered(self) -> Bools:
        """Whether each length is within its 0.9 quantile."""
        return np.asarray(self.tokens <= self.p90)

    def rows(self, part: slice) -> "ServedQuantiles":
        """Some of the requests."""
        return ServedQuantiles(self.median[part], self.p90[part], self.tokens[part])


@dataclass(frozen=True)
class TrainedVersion:
    """A fitted model, the apps of its training data, and its initial conformity scores."""

    model: LengthModel
    known: frozenset[UUID]
    start: ConformityScores

    def score(self, requests: EvaluationRequests) -> ScoredRequests:
        """The raw predictions for requests."""
        return scored_requests(requests, self.model.predict(requests.inputs).quantiles)

    def adaptation(self) -> Adaptation:
        """Its adaptation before any outcome."""
        return Adaptation(self.known, self.start)


def make_version(requests: EvaluationRequests, threads: int) -> TrainedVersion:
    """Fit on the older rows and calibrate on the newest, as training does."""
    older = len(requests) - round(HELD_OUT_SHARE * len(requests))
    past, newest = requests.rows(slice(older)), requests.rows(slice(older, None))
    found = fit_version(past, threads)
    return TrainedVersion(
        found.model, found.known, scores(found.model.predict(newest.inputs).quantiles, newest)
    )


def fit_version(requests: EvaluationRequests, threads: int) -> TrainedVersion:
    """Fit on all rows, without initial conformity scores."""
    natural = np.zeros(len(requests), dtype=np.bool_)
    model = LengthModel(fit(requests.inputs, requests.tokens, natural, threads=threads))
    return TrainedVersion(model, frozenset(requests.inputs.apps), NO_SCORES)


def scored_requests(requests: EvaluationRequests, scored: Floats) -> ScoredRequests:
    """Requests with given raw ln quantiles."""
    return ScoredRequests(requests.inputs.apps, requests.inputs.log_uil, scored, requests.tokens)


def replay(adaptation: Adaptation, stream: ScoredRequests) -> ServedQuantiles:
    """Serve each request, learning its outcome before the next."""
    quantiles_served = np.empty((len(stream), 2))
    for row, (app, log_uil, levels, tokens) in enumerate(_rows_of(stream)):
        quantiles = adaptation.serve(app, log_uil, levels, MAX_TOKENS)
        quantiles_served[row] = quantiles[MEDIAN], quantiles[P90]
        adaptation.learn(ScoredOutcome.of(app, log_uil, levels, int(tokens), censored=False))
    return ServedQuantiles(quantiles_served[:, 0], quantiles_served[:, 1], stream.tokens)


def serve_only(adaptation: Adaptation, stream: ScoredRequests) -> ServedQuantiles:
    """Serve each request without learning outcomes."""
    served = [
        adaptation.serve(app, log_uil, levels, MAX_TOKENS)
        for app, log_uil, levels, _ in _rows_of(stream)
    ]
    found = np.array(served)
    return ServedQuantiles(found[:, MEDIAN], found[:, P90], stream.tokens)


def log_residuals(adaptation: Adaptation, stream: ScoredRequests) -> Floats:
    """log(1 + tokens) minus its expectation after bias correction, (n,)."""
    corrected = [
        adaptation.corrected(app, log_uil, levels) for app, log_uil, levels, _ in _rows_of(stream)
    ]
    residuals: Floats = np.log1p(stream.tokens) - expected_log(np.exp(np.array(corrected)))
    return residuals


def _rows_of(stream: ScoredRequests) -> Iterator[tuple[UUID, float, list[float], float]]:
    """App, log input length, raw ln quantiles and actual length of each request."""
    columns = stream.log_uil.tolist(), stream.scored.tolist(), stream.tokens.tolist()
    return zip(stream.apps, *columns, strict=True)


def select_rows(requests: EvaluationRequests, rows: Rows | Bools) -> EvaluationRequests:
    """The requests with these indices or mask."""
    which = np.flatnonzero(rows) if rows.dtype == np.bool_ else np.asarray(rows, dtype=np.intp)
    return EvaluationRequests(
        lines=[requests.lines[row] for row in which.tolist()],
        names=requests.names[which],
        inputs=requests.inputs.rows(which),
        tokens=requests.tokens[which],
        max_tokens=requests.max_tokens[which],
    )


def concatenate(first: EvaluationRequests, second: EvaluationRequests) -> EvaluationRequests:
    """Concatenate two parts of the same requests; the second is newer."""
    one, two = first.inputs, second.inputs
    return EvaluationRequests(
        lines=[*first.lines, *second.lines],
        names=np.concatenate((first.names, second.names)),
        inputs=type(one)(
            apps=[*one.apps, *two.apps],
            features=np.concatenate((one.features, two.features)),
            instructions=one.instructions,
            sentences=np.concatenate((one.sentences, two.sentences)),
            instruction_of=np.concatenate((one.instruction_of, two.instruction_of)),
            text=np.concatenate((one.text, two.text)),
        ),
        tokens=np.concatenate((first.tokens, second.tokens)),
        max_tokens=np.concatenate((first.max_tokens, second.max_tokens)),
    )


def first_rows_per_app(names: NDArray[np.str_], limit: int) -> Rows:
    """The first `limit` rows of each app, ascending."""
    rows = [np.flatnonzero(names == name)[:limit] for name in np.unique(names)]
    return np.sort(np.concatenate(rows))


def in_apps(names: NDArray[np.str_], apps: Sequence[str]) -> Bools:
    """Mask of the rows of these apps, (n,)."""
    return np.isin(names, list(apps))


def app_ids(apps: Sequence[str]) -> frozenset[UUID]:
    """The ids of apps."""
    return frozenset(app_id(app) for app in apps)


def rolling(values: NDArray[np.float64], window: int) -> Floats:
    """Rolling means over `window` values: (n,) gives (n - window + 1,)."""
    sums = np.cumsum(np.concatenate(([0.0], values)))
    means: Floats = (sums[window:] - sums[:-window]) / window
    return means


def stable_from(within: Bools) -> int | None:
    """The first index from which all values are true; None without one."""
    wrong = np.flatnonzero(~within)
    first = int(wrong[-1]) + 1 if len(wrong) else 0
    return first if first < len(within) else None


COVERAGE_WINDOW: Final = 100  # of a rolling coverage, in outcomes
NOMINAL_COVERAGE: Final = 0.9
COVERAGE_TOLERANCE: Final = 0.03


def recovery(covered: Floats) -> tuple[int | None, Floats]:
    """The number of outcomes until coverage stays within tolerance, and its rolling means.

    `covered` is (orders, n); means are over COVERAGE_WINDOW outcomes and all orders.
    """
    means = rolling(covered.mean(axis=0), COVERAGE_WINDOW)
    place = stable_from(np.abs(means - NOMINAL_COVERAGE) <= COVERAGE_TOLERANCE)
    return None if place is None else place + COVERAGE_WINDOW, means
