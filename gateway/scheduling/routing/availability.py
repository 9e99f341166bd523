"""Which engines may be given work: not the lost and drained ones, and returned ones gradually."""

from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias

from msgspec import Struct

FIRST_SEQUENCES: Final = 4  # of a returned engine at once, at first
DOUBLING_STEPS: Final = 32  # of its own, after which it may have twice as many
MAX_DOUBLINGS: Final = 16  # then there is no limit
READY_STEPS: Final = MAX_DOUBLINGS * DOUBLING_STEPS

EngineState: TypeAlias = Literal["ready", "starting", "draining", "lost"]


class _Standing(Struct):
    lost: bool = False
    draining: bool = False
    steps: int = READY_STEPS  # since it returned


class Availability:
    """Whether each of E engines takes sequences, and how many at once.

    At first all do, without a limit.
    """

    def __init__(self, engines: int) -> None:
        self._standings = [_Standing() for _ in range(engines)]
        self._limited: set[int] = set()  # those that are not ready

    def lost(self, engine: int) -> None:
        """An engine stopped."""
        self._standings[engine].lost = True
        self._limited.add(engine)

    def returned(self, engine: int, *, gradually: bool = True) -> None:
        """A lost engine runs again: it gets work gradually, or at once."""
        standing = self._standings[engine]
        if standing.lost:
            standing.lost, standing.steps = False, 0 if gradually else READY_STEPS
            self._update(engine)

    def drain(self, engine: int, *, draining: bool) -> None:
        """Give an engine nothing new, or end that."""
        self._standings[engine].draining = draining
        self._update(engine)

    def advance(self, engine: int, steps: int) -> None:
        """An engine has run this number of steps."""
        if engine in self._limited:
            self._standings[engine].steps += steps
            self._update(engine)

    def open(self, running: Callable[[int], int]) -> Sequence[int]:
        """The engines that take one more sequence; `running` returns how many one has."""
        engines = range(len(self._standings))
        if not self._limited:
            return engines
        return [engine for engine in engines if self.allows(engine, running(engine))]

    def present(self) -> Sequence[int]:
        """The engines that are not lost, drained ones included."""
        return [engine for engine, each in enumerate(self._standings) if not each.lost]

    def allows(self, engine: int, running: int) -> bool:
        """Whether an engine with this number of sequences takes one more."""
        standing = self._standings[engine]
        if standing.lost or standing.draining:
            return False
        doublings = standing.steps // DOUBLING_STEPS
        return doublings >= MAX_DOUBLINGS or running < FIRST_SEQUENCES << doublings

    def state(self, engine: int) -> EngineState:
        """The state of an engine, for people."""
        standing = self._standings[engine]
        if standing.lost:
            return "lost"
        if standing.draining:
            return "draining"
        return "ready" if standing.steps >= READY_STEPS else "starting"

    def _update(self, engine: int) -> None:
        if self.state(engine) == "ready":
            self._limited.discard(engine)
        else:
            self._limited.add(engine)
