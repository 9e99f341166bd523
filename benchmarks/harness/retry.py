"""Repeats a run that others on the machine disturbed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from benchmarks.harness.cpu_noise import CpuNoise, Meter

QUIET: Final = 0.15  # foreign cores; a run beside more than this is repeated
REPEATS: Final = 2

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Measured(Generic[Outcome]):
    """What a run brought, what went on beside it, and which attempt it was."""

    outcome: Outcome
    load: CpuNoise
    attempt: int

    @property
    def quiet(self) -> bool:
        """Whether nobody disturbed it."""
        return self.load.foreign <= QUIET

    def __str__(self) -> str:
        again = f", attempt {self.attempt}" if self.attempt > 1 else ""
        verdict = "" if self.quiet else ", NOT QUIET"
        return f"foreign {self.load.foreign:.2f} cores, stolen {self.load.stolen:.2f}" + (
            again + verdict
        )


def quietest(
    run: Callable[[], Outcome],
    tell: Callable[[Measured[Outcome]], None],
    meter: Callable[[], Meter] = Meter,
) -> Measured[Outcome]:
    """The first quiet run of at most three, else the one beside the least foreign load."""
    attempts: list[Measured[Outcome]] = []
    while not attempts or (not attempts[-1].quiet and len(attempts) <= REPEATS):
        beside = meter()
        outcome = run()
        attempts.append(Measured(outcome, beside.load(), len(attempts) + 1))
        tell(attempts[-1])
    return min(attempts, key=lambda measured: measured.load.foreign)
