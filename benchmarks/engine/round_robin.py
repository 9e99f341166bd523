"""Contestants run in turns (A B C, B C A, …), while all others are paused."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from time import sleep
from typing import Final

from benchmarks.engine.contestants.process import Contestant, TimedAnswers
from benchmarks.engine.workload import Request, warmup_requests
from benchmarks.harness.retry import Measured, quietest

SETTLE_S: Final = 0.5


@dataclass(frozen=True)
class ContestantRun:
    """A contestant's run in one round."""

    name: str
    round: int
    measured: Measured[TimedAnswers]

    @property
    def tokens(self) -> list[list[int]]:
        """The answers' tokens, in the requests' order."""
        return self.measured.outcome.tokens

    @property
    def rate(self) -> float:
        """Generated tokens per second."""
        return sum(map(len, self.tokens)) / self.measured.outcome.wall_s


@dataclass(frozen=True)
class ContestantSpec:
    """How to start a contestant, and the number of rounds in which it takes part."""

    name: str
    start: Callable[[], Contestant]
    rounds: int


class RoundRobin:
    """Starts contestants one after the other and runs them in turns."""

    def __init__(self, requests: list[Request], say: Callable[[str], None]) -> None:
        self._requests = requests
        self._say = say
        self._present: dict[str, tuple[ContestantSpec, Contestant]] = {}
        self.absent: dict[str, str] = {}

    def enter(self, spec: ContestantSpec) -> None:
        """Start a contestant; one that fails to start is recorded as absent."""
        self._say(f"{spec.name}: starting")
        try:
            contestant = spec.start()
        except (RuntimeError, OSError) as error:
            self._drop(spec.name, error)
            return
        self._present[spec.name] = spec, contestant
        contestant.pause()

    def rounds(self, count: int) -> Iterator[list[ContestantRun]]:
        """The runs of each round. Each round starts with the next contestant."""
        for number in range(count):
            turn = [spec for spec, _ in self._present.values() if number < spec.rounds]
            start = number % max(1, len(turn))
            found = [self._run(spec.name, number) for spec in turn[start:] + turn[:start]]
            yield [run for run in found if run]

    def close(self) -> None:
        """End all contestants."""
        for _, contestant in self._present.values():
            contestant.close()
        self._present.clear()

    def _run(self, name: str, number: int) -> ContestantRun | None:
        """One contestant's run in a round; None if it fails, after which it is absent."""
        _, contestant = self._present[name]
        contestant.resume()
        try:
            sleep(SETTLE_S)
            contestant.answer(warmup_requests(self._requests))
            return ContestantRun(
                name,
                number,
                quietest(
                    lambda: contestant.answer(self._requests),
                    lambda measured: self._report_run(ContestantRun(name, number, measured)),
                ),
            )
        except (RuntimeError, OSError) as error:
            self._drop(name, error)
            return None
        finally:
            contestant.pause()

    def _report_run(self, run: ContestantRun) -> None:
        wall_s = run.measured.outcome.wall_s
        self._say(
            f"round {run.round + 1}: {run.name} {run.rate:,.1f} tok/s in {wall_s:.1f} s, "
            f"{run.measured}"
        )

    def _drop(self, name: str, error: Exception) -> None:
        self.absent[name] = str(error)
        self._say(f"{name}: absent: {error}")
        if name in self._present:
            _, contestant = self._present.pop(name)
            with suppress(OSError):
                contestant.close()
