"""Which sequences the engine preempts first: those of jobs, then of tenants over their share."""

from collections.abc import Iterable, Mapping, Sequence

from engine.protocol import BACKGROUND, SequenceId
from gateway.generation.engines.group import EngineGroup
from gateway.generation.request_state import RequestState
from gateway.generation.request_table import RequestTable, by_engine
from gateway.scheduling.control_loop import ControlLoop


class PreemptionOrder:
    """Keeps `preempt_first` of the running sequences current.

    `BACKGROUND` for lines of batch jobs, 1 for a tenant over its share, else 0.
    """

    def __init__(self, loop: ControlLoop, table: RequestTable, engines: EngineGroup) -> None:
        self._loop = loop
        self._table = table
        self._engines = engines
        self._over: frozenset[str] = frozenset()
        self._tenants: set[str] = set()  # known when `_over` was computed

    def of(self, state: RequestState) -> int:
        """The value for a sequence about to be submitted."""
        return BACKGROUND if state.lane == "batch" else int(state.tenant in self._over)

    def refresh(self) -> dict[int, dict[SequenceId, int]]:
        """Recompute which tenants are over their share.

        Returns the values that changed, by engine and sequence.
        """
        running = [each for each in self._table.in_engine() if each.lane == "interactive"]
        self._over = self._loop.over_share(running)
        self._tenants = {sequence.tenant for sequence in running}
        changed: dict[int, dict[SequenceId, int]] = {}
        for sequence_id, state in self._table.running.items():
            value = self.of(state)
            if value != state.preempt_first and state.engine is not None:
                changed.setdefault(state.engine, {})[sequence_id] = value
                state.preempt_first = value
        return changed

    def starting(self, states: Iterable[RequestState]) -> None:
        """Send changed values to the engines if a tenant starts that had nothing running."""
        interactive = (state for state in states if state.lane == "interactive")
        if not all(state.tenant in self._tenants for state in interactive):
            self.send(self.refresh())

    def send(self, changed: Mapping[int, Mapping[SequenceId, int]]) -> None:
        """Send changed values, by engine and sequence."""
        for number, values in changed.items():
            self._engines[number].revise({}, values)

    def request(self, request_ids: Sequence[str]) -> None:
        """Ask the engines to preempt the sequences of these requests."""
        wanted = set(request_ids)
        victims = [state for state in self._table.running.values() if state.id.hex in wanted]
        for number, states in by_engine(victims).items():
            self._engines[number].preempt([state.sequence_id for state in states])
