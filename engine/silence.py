"""When a process that gives no sign of life is to be ended."""

from http import HTTPStatus
from typing import Final

BEAT_S: Final = 1.0  # between two questions for a sign of life, and the longest wait for an answer
IMPORT_S: Final = 60.0  # a library from a cold disk may keep a start from answering for so long


class Silence:
    """Counts the beats at which a process gave no sign of life, or did not serve yet.

    Beats are counted, not seconds: where the process that asks was suspended too, the other one is
    not accused. `missed` are those in a row without an answer, `starting` all before it served.
    """

    def __init__(self, silence_s: float, start_s: float) -> None:
        self._silence_s = silence_s
        self._allowed_s = max(silence_s, IMPORT_S)
        self._start_s = start_s
        self.missed = 0
        self.starting = 0
        self.serving = False

    @property
    def too_long(self) -> bool:
        """Whether it has been silent, or has not served, for longer than allowed."""
        return self.missed * BEAT_S >= self._allowed_s or self.starting * BEAT_S >= self._start_s

    def beat(self, status: int | None) -> None:
        """Note the HTTP status of its answer; None if it gave none."""
        self.missed = self.missed + 1 if status is None else 0
        if status == HTTPStatus.OK:
            self.serving, self._allowed_s = True, self._silence_s
        self.starting += not self.serving
