"""How often sequences of an engine end: memory comes free at their ends."""

from typing import Final

RECENT_ENDS: Final = 32.0  # over which the mean is taken


class EndPace:
    """The mean steps from an end to the next one, over about the last `RECENT_ENDS`."""

    def __init__(self) -> None:
        self._steps = self._ends = 0.0

    def advance(self, steps: int) -> None:
        """The engine has run this number of steps since the last call."""
        self._steps += steps

    def ended(self) -> None:
        """A sequence ended."""
        self._ends += 1
        if self._ends > RECENT_ENDS:
            kept = RECENT_ENDS / self._ends
            self._steps, self._ends = self._steps * kept, RECENT_ENDS

    @property
    def steps(self) -> float | None:
        """The steps from an end to the next; None before the first."""
        return self._steps / self._ends if self._ends else None
