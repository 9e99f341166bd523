"""Whether predictions say anything of the order of lengths, from the outcomes of a replay."""

from typing import Final

from gateway.prediction.drift import Rolling
from gateway.scheduling.waiting import Waiting

WINDOW: Final = 500  # outcomes
EVERY: Final = 25  # of them


class Trust:
    """Kendall's τ of the last outcomes against a floor; without one, predictions are trusted."""

    def __init__(self, tau_floor: float | None) -> None:
        self._floor = tau_floor
        self._rolling = Rolling(WINDOW)
        self._outcomes = 0

    def learn(self, request: Waiting, tokens: int) -> bool | None:
        """Take in an outcome; whether predictions hold, now and then, once there are enough."""
        if self._floor is None:
            return None
        self._rolling.add(request.median, tokens, covered=tokens <= request.upper)
        self._outcomes += 1
        if self._outcomes % EVERY:
            return None
        quality = self._rolling.quality()
        return None if quality is None else quality.tau >= self._floor
