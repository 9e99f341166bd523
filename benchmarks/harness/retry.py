"""Repeats a run that other processes on the machine disturbed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from benchmarks.harness.cpu_noise import CpuNoise, Meter

MAX_FOREIGN_CORES: Final = 0.15  # used by other processes: above, a run is repeated
MAX_REPEATS: Final = 2

T = TypeVar("T")


@dataclass(frozen=True)
class Measured(Generic[T]):
    """The outcome of a run, the CPU noise during it, and its attempt, counted from 1."""

    outcome: T
    load: CpuNoise
    attempt: int

    @property
    def quiet(self) -> bool:
        """Whether it was undisturbed."""
        return self.load.foreign <= MAX_FOREIGN_CORES

    def __str__(self) -> str:
        again = f", attempt {self.attempt}" if self.attempt > 1 else ""
        verdict = "" if self.quiet else ", NOT QUIET"
        return f"foreign {self.load.foreign:.2f} cores, stolen {self.load.stolen:.2f}" + (
            again + verdict
        )


def quietest(
    run: Callable[[], T],
    report: Callable[[Measured[T]], None],
    meter: Callable[[], Meter] = Meter,
    repeats: int = MAX_REPEATS,
) -> Measured[T]:
    """The first undisturbed run, else the one with the least CPU noise; at most 1 + `repeats`."""
    attempts: list[Measured[T]] = []
    while not attempts or (not attempts[-1].quiet and len(attempts) <= repeats):
        meter_of_run = meter()
        outcome = run()
        attempts.append(Measured(outcome, meter_of_run.load(), len(attempts) + 1))
        report(attempts[-1])
    return min(attempts, key=lambda measured: measured.load.foreign)
