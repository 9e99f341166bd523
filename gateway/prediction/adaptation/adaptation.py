"""From a version's raw quantiles to served ones: bias-corrected, calibrated, capped.

The same code serves live requests, evaluates versions and replays history.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Final, Self
from uuid import UUID

from msgspec import Struct

from gateway.prediction.adaptation.bias_correction import BiasCorrections
from gateway.prediction.adaptation.conformal import (
    NO_SCORES,
    ConformalCalibration,
    ConformityScores,
    calibrated_tokens,
    least_spread,
)
from gateway.prediction.features.features import NOTED_LEVELS
from gateway.quantiles import LEVELS

TRAINED_OUTCOMES: Final = 100  # for which the training counts for an app that was in its data
NOTED_COLUMNS: Final = tuple(LEVELS.index(level) for level in NOTED_LEVELS)


class ScoredOutcome(Struct, frozen=True):
    """A finished request: its app, input length, raw quantiles and generated tokens.

    `raw` are the version's ln quantiles at `NOTED_LEVELS`, before any correction.
    """

    app: UUID
    log_uil: float
    raw: tuple[float, ...]
    tokens: int
    censored: bool

    @classmethod
    def of(
        cls, app: UUID, log_uil: float, scored: Sequence[float], tokens: int, *, censored: bool
    ) -> Self:
        """The outcome of a request with the version's ln quantiles `scored` at `LEVELS`."""
        return cls(app, log_uil, tuple(scored[place] for place in NOTED_COLUMNS), tokens, censored)


class Adaptation:
    """Bias correction and conformal calibration of one version, updated by each outcome.

    `known` are the apps of its training data, `start` its initial conformity scores. Of a version
    with `two_stages`, the first predictions, which have read no embedding, are calibrated by their
    own outcomes once an app has enough; until then like the second.
    """

    def __init__(self, known: Iterable[UUID] = (), start: ConformityScores = NO_SCORES) -> None:
        self._known = frozenset(known)
        self._corrections = BiasCorrections(self._known)
        self._calibration = ConformalCalibration(start)
        self._first = ConformalCalibration()
        self.two_stages = False

    def shift(self, app: UUID, log_uil: float, scored: Sequence[float]) -> float:
        """The bias correction: what is added to the log of the median and of the mean."""
        return self._corrections.shift(app, log_uil, [scored[place] for place in NOTED_COLUMNS])

    def corrected(self, app: UUID, log_uil: float, scored: Sequence[float]) -> list[float]:
        """The version's ln quantiles at `LEVELS`, bias-corrected but not calibrated."""
        raw = [scored[place] for place in NOTED_COLUMNS]
        return self._apply_correction(app, log_uil, raw, scored)

    def serve(
        self,
        app: UUID,
        log_uil: float,
        scored: Sequence[float],
        max_tokens: int,
        *,
        first: bool = False,
    ) -> tuple[float, ...]:
        """Served quantiles in tokens, ascending within 1 … max_tokens, from ln quantiles."""
        corrected = self.corrected(app, log_uil, scored)
        own = self._first.own(app) if first and self.two_stages else None
        calibration = own or self._calibration.of(app)
        outcomes = calibration.outcomes + (TRAINED_OUTCOMES if app in self._known else 0)
        spread = least_spread(outcomes)
        return calibrated_tokens(corrected, calibration.offsets, max_tokens, spread)

    def learn_first(self, outcome: ScoredOutcome) -> None:
        """Calibrate first predictions by an outcome, before it is learned; `raw` is the first's."""
        _, *upper = self._apply_correction(outcome.app, outcome.log_uil, outcome.raw, outcome.raw)
        self._first.learn(outcome.app, upper, outcome.tokens, censored=outcome.censored)

    def learn(self, outcome: ScoredOutcome) -> None:
        """Update correction and calibration with an outcome.

        A censored length is a lower bound: below the median it corrects nothing.
        """
        median, *upper = self._apply_correction(
            outcome.app, outcome.log_uil, outcome.raw, outcome.raw
        )
        self._calibration.learn(outcome.app, upper, outcome.tokens, censored=outcome.censored)
        length = math.log(max(outcome.tokens, 1))
        if outcome.censored and length <= median:
            return
        residual = length - outcome.raw[0]
        if self._corrections.learn(outcome.app, outcome.log_uil, outcome.raw, residual):
            self._calibration.forget(outcome.app)
            self._first.forget(outcome.app)

    def _apply_correction(
        self, app: UUID, log_uil: float, raw: Sequence[float], log_quantiles: Sequence[float]
    ) -> list[float]:
        middle, stretch = raw[0], self._corrections.stretch(app)
        centre = middle + self._corrections.shift(app, log_uil, raw)
        return [centre + stretch * (level - middle) for level in log_quantiles]
