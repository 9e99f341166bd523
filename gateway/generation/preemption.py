"""Which sequences the engine preempts first: those of jobs, then of tenants over their share."""

from collections.abc import Iterable, Sequence

from engine.protocol import BACKGROUND, SequenceId
from gateway.generation.engine_session import EngineSession
from gateway.generation.request_state import RequestState
from gateway.generation.request_table import RequestTable
from gateway.scheduling.control_loop import ControlLoop


class PreemptionOrder:
    """Keeps `preempt_first` of the running sequences current.

    `BACKGROUND` for lines of batch jobs, 1 for a tenant over its share, else 0.
    """

    def __init__(self, loop: ControlLoop, table: RequestTable, session: EngineSession) -> None:
        self._loop = loop
        self._table = table
        self._session = session
        self._over: frozenset[str] = frozenset()
        self._tenants: set[str] = set()  # known when `_over` was computed

    def of(self, state: RequestState) -> int:
        """The value for a sequence about to be submitted."""
        return BACKGROUND if state.lane == "batch" else int(state.tenant in self._over)

    def refresh(self) -> dict[SequenceId, int]:
        """Recompute which tenants are over their share; the values that changed, by sequence."""
        running = [each for each in self._table.in_engine() if each.lane == "interactive"]
        self._over = self._loop.over_share(running)
        self._tenants = {sequence.tenant for sequence in running}
        changed = {}
        for sequence_id, state in self._table.running.items():
            value = self.of(state)
            if value != state.preempt_first:
                state.preempt_first = changed[sequence_id] = value
        return changed

    def starting(self, states: Iterable[RequestState]) -> None:
        """Send changed values to the engine if a tenant starts that had nothing running."""
        interactive = (state for state in states if state.lane == "interactive")
        if not all(state.tenant in self._tenants for state in interactive):
            changed = self.refresh()
            if changed:
                self._session.revise({}, changed)

    def request(self, request_ids: Sequence[str]) -> None:
        """Ask the engine to preempt the sequences of these requests."""
        wanted = set(request_ids)
        victims = [state for state in self._table.running.values() if state.id.hex in wanted]
        self._session.preempt([state.sequence_id for state in victims])
