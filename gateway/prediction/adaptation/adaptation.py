"""From what a version says to what is served: corrected, calibrated, capped.

The same code serves live requests, judges versions and replays history.
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
)
from gateway.prediction.features.features import NOTED_LEVELS
from gateway.quantiles import LEVELS

NOTED_COLUMNS: Final = tuple(LEVELS.index(level) for level in NOTED_LEVELS)


class ScoredOutcome(Struct, frozen=True):
    """An outcome: of which app, how long its input was, what was said of it, and what came.

    `said` are the version's ln quantiles at `NOTED_LEVELS`, before any correction.
    """

    app: UUID
    log_uil: float
    said: tuple[float, ...]
    tokens: int
    censored: bool

    @classmethod
    def of(
        cls, app: UUID, log_uil: float, scored: Sequence[float], tokens: int, *, censored: bool
    ) -> Self:
        """The outcome of a request of which the version said these ln quantiles at `LEVELS`."""
        return cls(app, log_uil, tuple(scored[place] for place in NOTED_COLUMNS), tokens, censored)


class Adaptation:
    """What one version learned since it was trained, an outcome at a time."""

    def __init__(self, known: Iterable[UUID] = (), start: ConformityScores = NO_SCORES) -> None:
        self._corrections = BiasCorrections(frozenset(known))
        self._calibration = ConformalCalibration(start)

    def shift(self, app: UUID, log_uil: float, scored: Sequence[float]) -> float:
        """What is added to the logarithm of the median and the mean."""
        return self._corrections.shift(app, log_uil, [scored[place] for place in NOTED_COLUMNS])

    def corrected(self, app: UUID, log_uil: float, scored: Sequence[float]) -> list[float]:
        """Quantiles (ln) at `LEVELS`, corrected but not calibrated, from those of the version."""
        said = [scored[place] for place in NOTED_COLUMNS]
        return self._moved(app, log_uil, said, scored)

    def serve(
        self, app: UUID, log_uil: float, scored: Sequence[float], max_tokens: int
    ) -> tuple[float, ...]:
        """Quantiles in tokens, rising within 1 … max_tokens, from ln quantiles at `LEVELS`."""
        moved = self.corrected(app, log_uil, scored)
        return calibrated_tokens(moved, self._calibration.offsets(app), max_tokens)

    def learn(self, told: ScoredOutcome) -> None:
        """Take in an outcome.

        A length that was cut off says that it would have been longer than that, and nothing where
        more was expected.
        """
        median, *upper = self._moved(told.app, told.log_uil, told.said, told.said)
        self._calibration.learn(told.app, upper, told.tokens, censored=told.censored)
        length = math.log(max(told.tokens, 1))
        if told.censored and length <= median:
            return
        missed = length - told.said[0]
        if self._corrections.learn(told.app, told.log_uil, told.said, missed):
            self._calibration.forget(told.app)

    def _moved(
        self, app: UUID, log_uil: float, said: Sequence[float], levels: Sequence[float]
    ) -> list[float]:
        middle, stretch = said[0], self._corrections.stretch(app)
        centre = middle + self._corrections.shift(app, log_uil, said)
        return [centre + stretch * (level - middle) for level in levels]
