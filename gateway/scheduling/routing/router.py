"""The router: on which of a model's engines a request is predicted to end first."""

from collections.abc import Sequence
from typing import Final

from gateway.scheduling.requests import QueuedRequest, RunningSequence
from gateway.scheduling.routing.availability import Availability
from gateway.scheduling.routing.forecast import WorkForecast
from gateway.scheduling.routing.prefixes import PrefixIndex

OTHERS_WEIGHT: Final = 0.5  # of a second that others take longer, against one of its own


class Router:
    """Ranks engines for a request, and keeps what it goes by: work ahead, prefixes, availability.

    A request's predicted end on an engine counts, and how much later it makes the others' end there
    in sum.
    """

    def __init__(self, engines: int) -> None:
        self.engines = engines
        self.forecast = WorkForecast(engines)
        self.prefixes = PrefixIndex(engines)
        self.availability = Availability(engines)
        self._engine_of: dict[str, int] = {}  # of each sequence
        self._nothing_known = [0] * engines

    def ranked(
        self, sequence: QueuedRequest | RunningSequence, among: Sequence[int]
    ) -> Sequence[int]:
        """These engines, the best first."""
        if len(among) < 2:  # noqa: PLR2004 - nothing to choose
            return among
        own_s, others_s = self.forecast.ahead(sequence, self._known(sequence))
        costs = own_s + OTHERS_WEIGHT * others_s
        if len(among) == self.engines:
            ranked: list[int] = costs.argsort(kind="stable").tolist()
            return ranked
        return sorted(among, key=costs.tolist().__getitem__)

    def open(self) -> Sequence[int]:
        """The engines that take one more sequence."""
        return self.availability.open(self.forecast.running)

    def engine_of(self, sequence_id: str) -> int | None:
        """The engine that a sequence is on; None if it is on none."""
        return self._engine_of.get(sequence_id)

    def started(self, engine: int, sequence: QueuedRequest | RunningSequence) -> None:
        """A sequence starts, or goes on, on this engine."""
        known = self._known(sequence)[engine]
        self.forecast.join(engine, sequence, known)
        self._engine_of[sequence.id] = engine
        if isinstance(sequence, QueuedRequest) and sequence.blocks:
            self.prefixes.sent(engine, sequence.blocks)

    def ended(self, sequence_id: str) -> int | None:
        """A sequence left its engine; returns it. An unknown one is ignored."""
        engine = self._engine_of.pop(sequence_id, None)
        if engine is not None:
            self.forecast.leave(engine, sequence_id)
        return engine

    def refresh(self, engine: int, running: Sequence[RunningSequence]) -> None:
        """An engine has these sequences now."""
        self.forecast.refresh(engine, running)
        for sequence in running:
            self._engine_of[sequence.id] = engine

    def advance(self, engine: int, steps: int) -> None:
        """An engine has run this number of steps."""
        self.forecast.advance(engine, steps)
        self.availability.advance(engine, steps)

    def lost(self, engine: int) -> None:
        """An engine stopped; nothing is on it any more."""
        self.availability.lost(engine)
        self.prefixes.forget(engine)
        self.forecast.refresh(engine, ())
        self._engine_of = {key: at for key, at in self._engine_of.items() if at != engine}

    def _known(self, sequence: QueuedRequest | RunningSequence) -> list[int]:
        """The tokens of its prompt that each engine has, without the last: that is computed."""
        if isinstance(sequence, QueuedRequest) and sequence.blocks:
            most = sequence.prompt_tokens - 1
            return [min(each, most) for each in self.prefixes.known_tokens(sequence.blocks)]
        return self._nothing_known
