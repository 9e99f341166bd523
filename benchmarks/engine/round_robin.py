"""Contestants take turns (A B C, B C A, …), each while all others stand still."""

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
    """What a contestant did in one round."""

    name: str
    round: int
    measured: Measured[TimedAnswers]

    @property
    def tokens(self) -> list[list[int]]:
        """The answers' tokens, in the requests' order."""
        return self.measured.outcome.tokens

    @property
    def rate(self) -> float:
        """Tokens generated a second."""
        return sum(map(len, self.tokens)) / self.measured.outcome.wall_s


@dataclass(frozen=True)
class ContestantSpec:
    """How a contestant is started, and in how many rounds it takes part."""

    name: str
    start: Callable[[], Contestant]
    rounds: int


class RoundRobin:
    """Contestants started one after another, each paused until its turn."""

    def __init__(self, requests: list[Request], say: Callable[[str], None]) -> None:
        self._requests = requests
        self._say = say
        self._present: dict[str, tuple[ContestantSpec, Contestant]] = {}
        self.absent: dict[str, str] = {}

    def enter(self, spec: ContestantSpec) -> None:
        """Start a contestant; one that cannot start is absent, and the contest goes on."""
        self._say(f"{spec.name}: starting")
        try:
            contestant = spec.start()
        except (RuntimeError, OSError) as error:
            self._leave(spec.name, error)
            return
        self._present[spec.name] = spec, contestant
        contestant.pause()

    def rounds(self, count: int) -> Iterator[list[ContestantRun]]:
        """The runs of each round. Rounds begin with another contestant each time."""
        for number in range(count):
            turn = [spec for spec, _ in self._present.values() if number < spec.rounds]
            start = number % max(1, len(turn))
            found = [self._play(spec.name, number) for spec in turn[start:] + turn[:start]]
            yield [run for run in found if run]

    def close(self) -> None:
        """End everybody."""
        for _, contestant in self._present.values():
            contestant.close()
        self._present.clear()

    def _play(self, name: str, number: int) -> ContestantRun | None:
        """One contestant's run of a round; None where it fails, and is absent from then on."""
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
            self._leave(name, error)
            return None
        finally:
            contestant.pause()

    def _report_run(self, run: ContestantRun) -> None:
        wall_s = run.measured.outcome.wall_s
        self._say(
            f"round {run.round + 1}: {run.name} {run.rate:,.1f} tok/s in {wall_s:.1f} s, "
            f"{run.measured}"
        )

    def _leave(self, name: str, error: Exception) -> None:
        self.absent[name] = str(error)
        self._say(f"{name}: absent: {error}")
        if name in self._present:
            _, contestant = self._present.pop(name)
            with suppress(OSError):
                contestant.close()
