"""The end times of the running steps."""

from gateway.replay.cost.model import StepCost


class Timeline:
    """Steps `first` … `last` - 1, counted from 0; each sequence grows by a token a step.

    Step i runs from boundary i to boundary i + 1; at boundary i, i steps have been completed.
    """

    __slots__ = ("_cost", "_kv_tokens", "_origin_s", "_sequences", "began_s", "ended_s", "first",
                 "last")  # fmt: skip

    def __init__(self, cost: StepCost) -> None:
        self._cost = cost
        self._origin_s = self.began_s = self.ended_s = 0.0
        self._sequences = self.first = self.last = 0
        self._kv_tokens = 0

    def step(self, began_s: float, first: int, seconds: float) -> None:
        """A single step of `seconds`."""
        self.began_s, self.ended_s = began_s, began_s + seconds
        self.first, self.last = first, first + 1

    def run(
        self, began_s: float, first: int, last: int, sequences: int, kv_tokens: int, before_s: float
    ) -> None:
        """Decode steps; the first begins after `before_s` of other work."""
        self.began_s, self._origin_s = began_s, began_s + before_s
        self.first, self.last = first, last
        self._sequences, self._kv_tokens = sequences, kv_tokens
        self.ended_s = self._end_s(last)

    def cut(self, last: int) -> None:
        """End a run earlier, after its first step or later."""
        self.last = last
        self.ended_s = self._end_s(last)

    def reached_s(self, boundary: int) -> float:
        """The time of a boundary."""
        if boundary == self.first:
            return self.began_s
        return self.ended_s if boundary == self.last else self._end_s(boundary)

    def boundary(self, at_s: float) -> int:
        """The first boundary at `at_s` or later, for a time up to the end."""
        if at_s <= self.began_s:
            return self.first
        low, high = self.first, self.last
        low_s, high_s = self._origin_s, self.ended_s
        while high - low > 1:  # interpolation: durations change little from step to step
            guess = low + int((at_s - low_s) / (high_s - low_s) * (high - low))
            guess = min(max(guess, low + 1), high - 1)
            guess_s = self._end_s(guess)
            if guess_s < at_s:
                low, low_s = guess, guess_s
            else:
                high, high_s = guess, guess_s
        return high

    def steps_done(self, at_s: float) -> int:
        """Steps completed at a time before the end."""
        boundary = self.boundary(at_s)
        return boundary if self.reached_s(boundary) <= at_s else boundary - 1

    def _end_s(self, boundary: int) -> float:
        return self._origin_s + self._cost.run_seconds(
            self._sequences, self._kv_tokens, boundary - self.first
        )
