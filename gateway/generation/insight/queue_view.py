"""The live queue: running requests, then queued ones in the order in which they would start."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Literal, NamedTuple
from uuid import UUID

from msgspec import Struct

from engine.protocol import KvPlacement
from gateway.generation.engines.group import EngineGroup
from gateway.generation.insight.estimates import (
    ExpectedTurn,
    expected_turns,
    first_free_s,
    remaining_tokens,
    seconds_per_token,
)
from gateway.generation.insight.queue_waits import QueueWaits
from gateway.generation.request_state import HostReason, RequestState
from gateway.generation.request_table import RequestTable
from gateway.quantiles import MEDIAN
from gateway.scheduling.lmaas.inner_shares import Level
from gateway.scheduling.policy import Policy, SharingPolicy
from gateway.scheduling.requests import Lane, QueuedRequest
from gateway.scheduling.waits.bands import WaitBand
from gateway.scheduling.waits.estimator import Outlook


class QueueEntry(Struct, frozen=True, kw_only=True):
    """A queued or running request; times are seconds from now.

    `position` 1 starts next. `waits_for_share` is `app` or `user` if it would be held back now, as
    its app or user has had more than its share and others wait. `ratio` is its batch's response
    ratio. `waited_s` is the time in the queue. Its answer is due in `deadline_s`, negative once
    overdue; it is shed if it has not started in `start_by_s`. The expected times are medians, with
    their bands, 0.1 to 0.9 quantiles; they are null while the engine is away, paused or draining,
    and of a line of a batch job, which starts when no other request waits. `group` is the group of
    such a line, `shared_tokens` are the prompt tokens that its members share. `memory` is where the
    keys and values are or will be, as known now, `memory_reason` why that is host memory.
    """

    id: UUID
    state: Literal["waiting", "running"]
    tenant_id: UUID
    tenant: str
    app_id: UUID
    app: str
    lane: Lane
    group: str | None
    shared_tokens: int
    service_tier: str
    urgency: float
    prompt_tokens: int
    max_tokens: int
    predicted_tokens: float
    predicted_p10_tokens: float
    predicted_p90_tokens: float
    prediction_source: str
    waited_s: float
    deadline_s: float | None
    start_by_s: float | None
    batch: str | None
    position: int | None
    waits_for_share: Level | None
    ratio: float | None
    generated_tokens: int
    remaining_tokens: float
    expected_start_s: float | None
    expected_start_band_s: list[float] | None
    expected_finish_s: float | None
    expected_finish_band_s: list[float] | None
    memory: KvPlacement = "device"
    memory_reason: HostReason | None = None


class QueueTotals(Struct, frozen=True, kw_only=True):
    """Totals of the whole queue; `waiting_tokens` sums the queued requests' predicted medians.

    The expected times come from a forecast made `forecast_age_s` ago; one is made every
    `forecast_interval_s`, less often as the queue gets longer.
    """

    waiting: int
    running: int
    batches: int
    waiting_tokens: float
    longest_wait_s: float
    forecast_age_s: float | None
    forecast_interval_s: float


class QueuePage(Struct, frozen=True, kw_only=True):
    """Totals of the queue, and a page of it: running requests, then queued ones by turn."""

    totals: QueueTotals
    requests: list[QueueEntry]
    more: bool


class _RunningEntry(NamedTuple):
    state: RequestState
    remaining: float


def read_queue(
    table: RequestTable,
    engine: EngineGroup,
    policy: Policy,
    waits: QueueWaits,
    *,
    now_s: float,
    limit: int,
    offset: int = 0,
    tenant: UUID | None = None,
) -> QueuePage:
    """The queue's totals, and `limit` requests from `offset` on, of all tenants or one.

    Totals take O(n) of n requests; besides, only what is on the page or before it in its batch is
    put in order.
    """
    running = list(table.running.values())
    step_s = engine.step_s
    left = remaining_tokens(running)
    served = [
        (state, tokens)
        for state, tokens in zip(running, left, strict=True)
        if state.lane == "interactive"
    ]
    ahead, ahead_left = [state for state, _ in served], [tokens for _, tokens in served]
    free_s = first_free_s(ahead, ahead_left, now_s, step_s)

    def wanted() -> Iterator[_RunningEntry | ExpectedTurn | RequestState]:
        runs = [
            _RunningEntry(state, tokens)
            for state, tokens in zip(running, left, strict=True)
            if tenant in {None, state.request.caller.tenant_id}
        ]
        yield from runs[offset:]
        skip = yield from expected_turns(
            policy.waiting(now_s),
            len(ahead),
            free_s,
            tenant=None if tenant is None else tenant.hex,
            skip=max(offset - len(runs), 0),
        )
        lines = (
            state
            for state in table.waiting.values()
            if not state.in_order and tenant in {None, state.request.caller.tenant_id}
        )
        yield from islice(lines, skip, None)

    page = list(islice(wanted(), limit + 1))
    shares = _shares_of(policy)
    return QueuePage(
        totals=_totals(table, policy, waits, now_s),
        requests=[
            _waiting(
                table.waiting[each.request.id],
                each,
                now_s,
                outlook=waits.outlook(table.waiting[each.request.id], now_s)
                if engine.accepting
                else None,
                expected=engine.accepting,
                waits_for_share=shares(each.request),
            )
            if isinstance(each, ExpectedTurn)
            else _waiting_line(
                each, now_s, waits.outlook(each, now_s) if engine.accepting else None
            )
            if isinstance(each, RequestState)
            else _running(each, now_s, step_s, expected=engine.accepting)
            for each in page[:limit]
        ],
        more=len(page) > limit,
    )


def share_waited_for(policy: Policy, request_id: str) -> Level | None:
    """Whether a queued request would be held back now, for its app's or its user's share."""
    return policy.holding_back(request_id) if isinstance(policy, SharingPolicy) else None


def _shares_of(policy: Policy) -> Callable[[QueuedRequest], Level | None]:
    """What `share_waited_for` says of many requests: it asks the policy once for each user."""
    known: dict[tuple[str, str, str], Level | None] = {}
    sharing = policy if isinstance(policy, SharingPolicy) else None

    def waited_for(request: QueuedRequest) -> Level | None:
        if sharing is None:
            return None
        user = request.tenant, request.app, request.user
        if user not in known:
            known[user] = sharing.holding_back(request.id)
        return known[user]

    return waited_for


def _totals(table: RequestTable, policy: Policy, waits: QueueWaits, now_s: float) -> QueueTotals:
    as_of_s = waits.estimator.as_of_s
    ranked = [each.queued_request for each in table.waiting.values() if each.in_order]
    queued = [each for each in ranked if each is not None]
    return QueueTotals(
        waiting=len(table.waiting),
        running=len(table.running),
        batches=policy.batches,
        waiting_tokens=sum([each.quantiles[MEDIAN] for each in queued]),
        longest_wait_s=now_s - min([each.arrived_s for each in queued], default=now_s),
        forecast_age_s=None if as_of_s is None else now_s - as_of_s,
        forecast_interval_s=waits.interval_s,
    )


def _running(
    entry: _RunningEntry, now_s: float, step_s: float | None, *, expected: bool
) -> QueueEntry:
    state, tokens = entry
    pace = seconds_per_token(state, now_s, step_s) if expected else None
    return _entry(
        state,
        now_s,
        phase="running",
        until_s=state.dispatched_s,
        batch=state.trace.batch,
        ratio=state.trace.ratio,
        remaining=tokens,
        finish_s=None if pace is None else tokens * pace,
    )


def _waiting(
    state: RequestState,
    turn: ExpectedTurn,
    now_s: float,
    *,
    outlook: Outlook | None,
    expected: bool,
    waits_for_share: Level | None,
) -> QueueEntry:
    start_s, finish_s = (turn.start_s, turn.finish_s) if expected else (None, None)
    if outlook is not None:
        start_s, finish_s = outlook.start.p50, outlook.finish.p50
    return _entry(
        state,
        now_s,
        phase="waiting",
        batch=turn.batch.id,
        ratio=turn.batch.ratio,
        position=turn.position,
        waits_for_share=waits_for_share,
        remaining=remaining_tokens([state])[0] if state.queued_again else state.prediction.median,
        start_s=start_s,
        finish_s=finish_s,
        outlook=outlook,
    )


def _waiting_line(state: RequestState, now_s: float, outlook: Outlook | None) -> QueueEntry:
    """A line of a job, of which nothing is expected, or a request that waits for host memory."""
    return _entry(
        state,
        now_s,
        phase="waiting",
        batch=None,
        ratio=None,
        remaining=state.prediction.median,
        start_s=None if outlook is None else outlook.start.p50,
        finish_s=None if outlook is None else outlook.finish.p50,
        outlook=outlook,
    )


def _entry(
    state: RequestState,
    now_s: float,
    *,
    phase: Literal["waiting", "running"],
    batch: str | None,
    ratio: float | None,
    remaining: float,
    finish_s: float | None,
    until_s: float | None = None,
    start_s: float | None = None,
    position: int | None = None,
    waits_for_share: Level | None = None,
    outlook: Outlook | None = None,
) -> QueueEntry:
    request, prediction = state.request, state.prediction
    return QueueEntry(
        id=state.id,
        state=phase,
        tenant_id=request.caller.tenant_id,
        tenant=request.caller.tenant,
        app_id=request.caller.app_id,
        app=request.caller.app,
        lane=state.lane,
        group=state.prefix.id if state.prefix else None,
        shared_tokens=state.prefix.tokens if state.prefix else 0,
        service_tier=request.service_tier,
        urgency=request.urgency,
        prompt_tokens=len(state.prompt),
        max_tokens=state.max_tokens,
        predicted_tokens=prediction.median,
        predicted_p10_tokens=prediction.quantiles[0],
        predicted_p90_tokens=prediction.upper,
        prediction_source=prediction.source,
        waited_s=(now_s if until_s is None else until_s) - state.arrived_s,
        deadline_s=_from_now(state, request.deadline_s, now_s),
        start_by_s=None if state.queued_again else _from_now(state, request.max_queue_s, now_s),
        batch=batch,
        position=position,
        waits_for_share=waits_for_share,
        ratio=ratio,
        generated_tokens=len(state.tokens),
        remaining_tokens=remaining,
        expected_start_s=start_s,
        expected_start_band_s=_band(None if outlook is None else outlook.start),
        expected_finish_s=finish_s,
        expected_finish_band_s=_band(None if outlook is None else outlook.finish),
        memory=state.memory,
        memory_reason=state.host_reason,
    )


def _band(found: WaitBand | None) -> list[float] | None:
    return None if found is None else [found.p10, found.p90]


def _from_now(state: RequestState, allowed_s: float | None, now_s: float) -> float | None:
    return None if allowed_s is None else state.arrived_s + allowed_s - now_s
