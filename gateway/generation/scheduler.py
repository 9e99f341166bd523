"""The live scheduler of one model: queue, engines, and the operator's actions."""

import time
from collections.abc import Callable
from collections.abc import Sequence as Many
from datetime import UTC, datetime
from uuid import UUID

import structlog
from msgspec import structs

from gateway.engines.interface import EngineClient
from gateway.errors import (
    Conflict,
    InvalidRequest,
    LmaasError,
    NotFound,
    RequestCancelled,
    shortened,
)
from gateway.generation.dispatch_sources import DispatchSources
from gateway.generation.dispatcher import Dispatcher
from gateway.generation.engine_events import EngineEvents
from gateway.generation.engines.group import EngineGroup
from gateway.generation.engines.session import OUTAGE_S, EngineSession, mode_of
from gateway.generation.holds.holds import Holds
from gateway.generation.insight.explanation import Explanation, explain_ended, explain_held
from gateway.generation.insight.host_cost import HostCostLearner
from gateway.generation.insight.progress import RequestProgress, progress_of
from gateway.generation.insight.queue_view import QueuePage, read_queue, share_waited_for
from gateway.generation.insight.queue_waits import QueueWaits
from gateway.generation.insight.step_cost import StepCostLearner
from gateway.generation.metrics import GatewayMetrics
from gateway.generation.pins import PrefixPins
from gateway.generation.preemption import PreemptionOrder
from gateway.generation.queue.load import QueueBounds, QueueLoad
from gateway.generation.queue.position import QueuePositions
from gateway.generation.recording import Origin, record_of
from gateway.generation.request import GenerationRequest
from gateway.generation.request_state import RequestState
from gateway.generation.request_table import RequestTable
from gateway.generation.settlement import Learner, RecordStore, Settlement
from gateway.history.engine_costs import MeasuredEngine
from gateway.history.requests import RequestHistory, no_request
from gateway.limits.request_hold import RequestHold
from gateway.prediction.messages import Prediction
from gateway.scheduling.control_loop import ControlLoop, Fallback
from gateway.scheduling.host_lane import HostLane
from gateway.scheduling.policy import POLICY_NAMES, Options, Policy, PolicyName, build_policy
from gateway.scheduling.requests import QueuedRequest
from gateway.scheduling.routing.prefixes import blocks_of
from gateway.scheduling.waits.estimator import Outlook
from models.base import new_id

log = structlog.get_logger()


class Scheduler:
    """Schedules requests from their arrival in the queue to their settlement.

    `engine` are the engines, which answer as one, and each by its number; `events` are their
    listeners. `table` holds the requests that have not ended, `load` bounds what is queued, `holds`
    keeps limits on use, `pins` are the prefixes of jobs' groups, `sources` which predictions starts
    went by, `waits` expects when requests start and end.
    """

    def __init__(
        self,
        model: str,
        engines: Many[EngineClient],
        history: RecordStore,
        learner: Learner,
        *,
        policy: PolicyName,
        options: Options,
        tau_floor: float,
        bounds: QueueBounds | None = None,
        holds: Holds | None = None,
        outage_s: float = OUTAGE_S,
        metrics: GatewayMetrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        self.tau_floor = tau_floor  # of the predictions that the policy goes by
        self.metrics = metrics or GatewayMetrics()
        self.table = RequestTable()
        self.load = QueueLoad(bounds or QueueBounds())
        self.holds = holds or Holds()
        self._origin = Origin(model, new_id())
        self._step_costs = [StepCostLearner() for _ in engines]
        self._clock = clock
        self._policies: dict[PolicyName, Policy] = {}
        self._clients = tuple(engines)
        self._history = history
        self._loop = loop = ControlLoop(self._policy(policy), self.table.on_engine)
        self.engine = EngineGroup(
            [
                EngineSession(client, mode_of(loop.policy), clock(), outage_s, number)
                for number, client in enumerate(engines)
            ]
        )
        for session in self.engine:
            loop.lose(session.number)  # until it is connected
        self._positions = positions = QueuePositions()
        host_lane = HostLane()
        self.waits = QueueWaits(loop, self.table, host_lane, self.engine, self._step_costs, clock)
        self.sources = DispatchSources(learner)
        self.metrics.count_predictions(self.sources.counts)
        self.pins = PrefixPins(loop, self.engine, self.metrics)
        settlement = Settlement(
            loop,
            host_lane,
            positions,
            self.pins,
            self.holds,
            self.metrics,
            history,
            learner,
            self._origin,
            tau_floor,
            clock,
        )
        preemption = PreemptionOrder(loop, self.table, self.engine)
        self._dispatcher = Dispatcher(
            loop,
            host_lane,
            self.table,
            self.engine,
            settlement,
            preemption,
            self.pins,
            self.load,
            positions,
            self.waits,
            self.sources,
            self.metrics,
            self._origin,
            clock,
        )
        self.events = [
            EngineEvents(
                loop,
                self.table,
                session,
                self.engine,
                settlement,
                preemption,
                self.pins,
                self.holds,
                self.load,
                self._dispatcher,
                self.metrics,
                step_cost,
                HostCostLearner(host_lane),
                clock,
            )
            for session, step_cost in zip(self.engine, self._step_costs, strict=True)
        ]

    async def start(self) -> None:
        """Start to connect to the engines; `engine.ready` returns once they are connected."""
        for client, events in zip(self._clients, self.events, strict=True):
            await client.start(events)

    @property
    def gateway_id(self) -> UUID:
        """The id of this run of the gateway, as its rows of history have it."""
        return self._origin.gateway_id

    def blocks(self, prompt: Many[int], tenant: UUID) -> tuple[int, ...]:
        """The hashes of a prompt's leading blocks, by which several engines are chosen from.

        A tenant shares no prefixes with others. Empty with one engine.
        """
        return () if len(self.engine) == 1 else blocks_of(prompt, tenant.hex)

    def enqueue(self, state: RequestState) -> None:
        """Add a request to the queue."""
        self._dispatcher.enqueue(state)

    @property
    def history_full(self) -> bool:
        """Whether further requests could not be recorded."""
        return self._history.full

    async def hold(
        self,
        request: GenerationRequest,
        prompt_tokens: int,
        max_tokens: int,
        prediction: Prediction,
    ) -> RequestHold:
        """Hold what a request that arrives may use of its limits. LimitReached, DatabaseLost."""
        kv = self.engine.served.kv
        return await self.holds.admit(
            request,
            prompt_tokens,
            max_tokens,
            prediction,
            lasts_s=self._positions.expected_s(prediction.median),
            pool=kv.pages * kv.page_tokens,
        )

    def revise(self, state: RequestState, prediction: Prediction) -> None:
        """Take up another prediction of a request's length. Does nothing if it has ended."""
        self.holds.revise(state, prediction)
        self._dispatcher.revise(state, prediction)

    def cancel(self, state: RequestState, error: LmaasError | None = None) -> None:
        """End a request whose answer is no longer wanted. Does nothing if it has ended."""
        self._dispatcher.cancel(state, error)

    def cancel_all(self, error: LmaasError) -> None:
        """End every queued and running request with this error."""
        self._dispatcher.cancel_all(error)

    @property
    def policy(self) -> Policy:
        """The active scheduling policy."""
        return self._loop.policy

    @property
    def fallback(self) -> Fallback | None:
        """Why the policy falls back to order of arrival; None if it does not."""
        return self._loop.fallback

    def use_policy(self, name: str, options: Options | None = None) -> None:
        """Switch to this policy until the next change or restart; queued requests move to it.

        Changed options reset the learned state of all policies. InvalidRequest if there is no such
        policy.
        """
        known = next((each for each in POLICY_NAMES if each == name), None)
        if known is None:
            raise InvalidRequest(
                f"there is no policy {shortened(name)!r}; accepted are {', '.join(POLICY_NAMES)}",
                param="name",
            )
        try:
            lockstep = self._policy(known).lockstep
        except ValueError as error:  # with several engines
            raise InvalidRequest(f"the policy is not accepted: {error}", param="name") from error
        if lockstep and (reason := self._refusal("lockstep")):
            raise InvalidRequest(f"the policy {known!r} is not accepted: {reason}", param="name")
        if options is not None and options != self.options:
            self.options = options
            self._policies.clear()
        self._dispatcher.use(self._policy(known))

    def _refusal(self, what: str) -> str | None:
        """Why an engine cannot do this; None if all can, or none has connected yet."""
        return self.engine.info.refusals.get(what) if self.engine.info else None

    def _policy(self, name: PolicyName) -> Policy:
        """The policy of this name, kept with its learned state while another one is active."""
        if name not in self._policies:
            self._policies[name] = build_policy(name, self.options, len(self._clients))
        return self._policies[name]

    def measured_engine(self) -> MeasuredEngine | None:
        """The engine's size and the cost of its steps; None before enough steps.

        Of several engines, the one whose steps were measured most.
        """
        measured = [
            (cost, session.info)
            for learner, session in zip(self._step_costs, self.engine, strict=True)
            if (cost := learner.cost) is not None and session.info is not None
        ]
        if not measured:
            return None
        learned, info = max(measured, key=lambda each: each[0].steps)
        return MeasuredEngine(
            gateway_id=self._origin.gateway_id,
            model=self._origin.model,
            device=info.device,
            dtype=info.dtype,
            measured_at=datetime.now(UTC),
            steps=learned.steps,
            error=learned.error,
            **structs.asdict(learned.coefficients),
            pages=info.kv.pages,
            page_tokens=info.kv.page_tokens,
            context_tokens=info.context_tokens,
            step_tokens=info.step_tokens or None,
            max_sequences=info.max_running or None,
        )

    def pause_engine(self, number: int | None = None) -> None:
        """Stop the computation of one engine, or all, until resumed; all requests are kept.

        Conflict if an engine is a server that cannot be paused. NotFound.
        """
        sessions = self._engines(number)
        for session in sessions:
            reason = session.info.refusals.get("pause") if session.info else None
            if reason is not None:
                raise Conflict(f"the engine cannot be paused: {reason}; it can be drained")
        self._loop.interrupt()
        for session in sessions:
            session.pause()
            self._loop.drain(session.number, draining=True)

    def drain_engine(self, number: int | None = None) -> None:
        """Dispatch nothing to one engine, or all, until resumed; running requests finish. NotFound.

        What waits starts on the others.
        """
        for session in self._engines(number):
            self._dispatcher.drain(session.number)
        self._dispatcher.decide_soon()

    def resume_engine(self, number: int | None = None) -> None:
        """End a pause or a drain of one engine, or all. NotFound."""
        for session in self._engines(number):
            session.resume()
            self._loop.drain(session.number, draining=False)
        self._dispatcher.decide_soon()

    def _engines(self, number: int | None) -> list[EngineSession]:
        """The session of this number, or all. NotFound."""
        if number is None:
            return list(self.engine)
        if not 0 <= number < len(self.engine):
            raise NotFound(
                f"there is no engine {number}; engines are 0 to {len(self.engine) - 1}",
                param="engine",
            )
        return [self.engine[number]]

    def read_queue(self, *, limit: int, offset: int = 0, tenant: UUID | None = None) -> QueuePage:
        """The queue's totals, and `limit` requests from `offset` on, of all tenants or one."""
        return read_queue(
            self.table,
            self.engine,
            self.policy,
            self.waits,
            now_s=self._clock(),
            limit=limit,
            offset=offset,
            tenant=tenant,
        )

    def comment(self, state: RequestState) -> str | None:
        """The place of a waiting request, and when it is expected to start; None once it runs."""
        if state.dispatched_s is not None or state.ended:
            return None
        outlook = self.waits.outlook(state, self._clock())
        if outlook is None or not self.engine.accepting:
            return "waiting"
        start = outlook.start
        return (
            f"waiting, place {outlook.place}, expected to start in {start.p50:.1f} s "
            f"({start.p10:.1f} to {start.p90:.1f} s)"
        )

    def progress(self, request_id: UUID, tenant_id: UUID) -> RequestProgress | None:
        """A request of this tenant that waits or runs here; None if there is none."""
        state = self.table.find(request_id)
        if state is None or state.request.caller.tenant_id != tenant_id:
            return None
        explained = self._explained(state)
        return progress_of(state, explained, self.waits, self.engine, self._clock())

    def expected_of(self, request: QueuedRequest) -> Outlook | None:
        """When a request would start and end that were queued now; None while none starts."""
        return self.waits.of_new(request) if self.engine.accepting else None

    async def explain(self, request_id: UUID, history: RequestHistory) -> Explanation:
        """Explain a request of this gateway, or one that ended on any gateway. NotFound."""
        state = self.table.find(request_id)
        return await explain_ended(request_id, history) if state is None else self._explained(state)

    def cancel_request(self, request_id: UUID, *, by: str) -> Explanation:
        """End a request with all its choices; its client gets an error. NotFound if it ended."""
        found = self.table.find(request_id)
        if found is None:
            raise no_request(f"{request_id} that waits or runs")
        for state in [state for state in self.table if state.request is found.request]:
            error = RequestCancelled("an operator cancelled the request")
            self._dispatcher.cancel(state, error)
        log.info("request_cancelled", request=str(request_id), by=by)
        return self._explained(found)

    def _explained(self, state: RequestState) -> Explanation:
        record = record_of(state, self._origin, self.policy.name, self._clock())
        return explain_held(state, record, share_waited_for(self.policy, state.id.hex))
