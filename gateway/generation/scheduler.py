"""The live scheduler of one model: its queue, its engine, and what an operator sees and changes."""

import time
from collections.abc import Callable
from uuid import UUID

import structlog

from gateway.engines.interface import Engine
from gateway.errors import InvalidRequest, LmaasError, RequestCancelled
from gateway.generation.dispatcher import Dispatcher, mode_of
from gateway.generation.engine_events import OUTAGE_S, EngineEvents
from gateway.generation.engine_session import EngineSession
from gateway.generation.insight.explanation import Explained, explain_ended, explain_live
from gateway.generation.insight.queue_view import Queue, read_queue
from gateway.generation.metrics import Metrics
from gateway.generation.queue_position import QueuePositions
from gateway.generation.recording import Origin, record_of
from gateway.generation.request_state import RequestState
from gateway.generation.request_table import RequestTable
from gateway.generation.settlement import History, Learner, Settlement
from gateway.history.requests import RequestHistory, no_request
from gateway.scheduling.control_loop import ControlLoop, Fallback
from gateway.scheduling.policy import POLICY_NAMES, Options, Policy, PolicyName, build_policy
from models.base import new_id

log = structlog.get_logger()


class Scheduler:
    """Requests from their arrival in the queue to their settlement.

    `engine` is the engine's state and newest step, `table` the requests that have not ended.
    """

    def __init__(
        self,
        model: str,
        engine: Engine,
        history: History,
        learner: Learner,
        *,
        policy: PolicyName,
        options: Options,
        tau_floor: float,
        outage_s: float = OUTAGE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        self.metrics = Metrics()
        self.table = RequestTable()
        self._origin = Origin(model, new_id())
        self._clock = clock
        self._policies: dict[PolicyName, Policy] = {}
        self._client = engine
        self._loop = loop = ControlLoop(self._policy(policy))
        self.engine = EngineSession(engine, mode_of(loop.policy), clock())
        positions = QueuePositions()
        settlement = Settlement(
            loop, positions, self.metrics, history, learner, self._origin, tau_floor, clock
        )
        self._dispatcher = Dispatcher(
            loop, self.table, self.engine, settlement, positions, self.metrics, self._origin, clock
        )
        self.events = EngineEvents(
            loop,
            self.table,
            self.engine,
            settlement,
            self._dispatcher,
            self.metrics,
            outage_s,
            clock,
        )

    async def start(self) -> None:
        """Begin to follow the engine; `engine.ready` returns once it is there."""
        await self._client.start(self.events)

    def enqueue(self, live: RequestState) -> None:
        """Let a request wait for its turn."""
        self._dispatcher.enqueue(live)

    def cancel(self, live: RequestState, error: LmaasError | None = None) -> None:
        """End a request whose answer is no longer wanted. Nothing happens where it has ended."""
        self._dispatcher.cancel(live, error)

    def cancel_all(self, error: LmaasError) -> None:
        """End everything."""
        self._dispatcher.cancel_all(error)

    @property
    def policy(self) -> Policy:
        """The scheduling policy at work."""
        return self._loop.policy

    @property
    def fallback(self) -> Fallback | None:
        """Why the policy goes by order of arrival now; None where it does not."""
        return self._loop.fallback

    def use_policy(self, name: str, options: Options | None = None) -> None:
        """Schedule by this policy until the next change or start; nothing that waits is lost.

        With other options all policies begin anew. InvalidRequest where there is no such policy.
        """
        known = next((each for each in POLICY_NAMES if each == name), None)
        if known is None:
            raise InvalidRequest(
                f"there is no policy {name!r}; accepted are {', '.join(POLICY_NAMES)}", param="name"
            )
        if options is not None and options != self.options:
            self.options = options
            self._policies.clear()
        self._dispatcher.use(self._policy(known))

    def _policy(self, name: PolicyName) -> Policy:
        """One that comes back knows what it had learned."""
        if name not in self._policies:
            self._policies[name] = build_policy(name, self.options)
        return self._policies[name]

    def pause_engine(self) -> None:
        """Let the engine compute nothing until resumed; what waits and runs is kept."""
        self._loop.interrupt()
        self.engine.pause()

    def drain_engine(self) -> None:
        """Hand nothing over until resumed; what runs goes on to its end."""
        self.engine.drain()

    def resume_engine(self) -> None:
        """End a pause or a drain."""
        self.engine.resume()
        self._dispatcher.decide_soon()

    def read_queue(self, *, limit: int, offset: int = 0, tenant: UUID | None = None) -> Queue:
        """The queue now, and of its requests, all or a tenant's, `limit` from `offset` on."""
        return read_queue(
            self.table,
            self.engine,
            self.policy,
            now_s=self._clock(),
            limit=limit,
            offset=offset,
            tenant=tenant,
        )

    async def explain(self, request_id: UUID, history: RequestHistory) -> Explained:
        """What became of a request of this gateway, or of one that ended on any. NotFound."""
        live = self.table.find(request_id)
        return await explain_ended(request_id, history) if live is None else self._explained(live)

    def cancel_request(self, request_id: UUID, *, by: str) -> Explained:
        """End a request with all its choices; its client gets an error. NotFound once it ended."""
        found = self.table.find(request_id)
        if found is None:
            raise no_request(f"{request_id} that waits or runs")
        for live in [live for live in self.table if live.ask is found.ask]:
            error = RequestCancelled("an operator cancelled the request")
            self._dispatcher.cancel(live, error)
        log.info("request_cancelled", request=str(request_id), by=by)
        return self._explained(found)

    def _explained(self, live: RequestState) -> Explained:
        record = record_of(live, self._origin, self.policy.name, self._clock())
        return explain_live(live, record)
