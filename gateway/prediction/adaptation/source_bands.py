"""The bands of predictions from the length history: each source is calibrated by its own outcomes.

How far an app's earlier lengths predict its next one says nothing of what those of its tenant, of
all apps or the prior are worth for an app that has none. Nor do answers of one form say it of
another, whose first ones are predicted from those of the app's other forms.
"""

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from gateway.prediction.adaptation.conformal import (
    ConformalCalibration,
    calibrated_tokens,
    least_spread,
)
from gateway.prediction.messages import FREE, Form


class SourceBands:
    """The calibration of each source of `gateway.prediction.messages.SOURCES`, for each form."""

    def __init__(self) -> None:
        self._sources: defaultdict[tuple[str, Form], ConformalCalibration] = defaultdict(
            ConformalCalibration
        )

    def serve(
        self,
        source: str,
        app: UUID,
        log_quantiles: Sequence[float],
        max_tokens: int,
        *,
        form: Form = FREE,
    ) -> tuple[float, ...]:
        """Served quantiles in tokens, ascending within 1 … max_tokens, from those at `LEVELS`."""
        calibration = self._sources[source, form].of(app)
        spread = least_spread(calibration.outcomes)
        return calibrated_tokens(log_quantiles, calibration.offsets, max_tokens, spread)

    def learn(
        self,
        source: str,
        app: UUID,
        upper: Sequence[float],
        tokens: int,
        *,
        censored: bool,
        form: Form = FREE,
    ) -> None:
        """Learn an outcome from its uncalibrated log quantiles at `CALIBRATED_LEVELS`."""
        self._sources[source, form].learn(app, upper, tokens, censored=censored)
