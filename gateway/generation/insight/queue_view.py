"""The live queue: what runs, and what waits in the order in which it would start."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Literal, NamedTuple
from uuid import UUID

from msgspec import Struct

from gateway.generation.engine_session import EngineSession
from gateway.generation.insight.estimates import (
    Turn,
    first_free_s,
    remaining_tokens,
    seconds_a_token,
    turns,
)
from gateway.generation.request_state import RequestState
from gateway.generation.request_table import RequestTable
from gateway.scheduling.policy import Policy
from gateway.scheduling.requests import WaitingBatch


class Queued(Struct, frozen=True, kw_only=True):
    """A request as the scheduler sees it now; what is in seconds counts from now.

    `position` 1 goes next. `ratio` is its batch's response ratio. `waited_s` is until now, or until
    it was started. By `deadline_s` its answer is wanted, below 0 once that has passed; if it has
    not started by `start_by_s` it is given up. Nothing is expected while the engine is away, paused
    or draining.
    """

    id: UUID
    state: Literal["waiting", "running"]
    tenant_id: UUID
    tenant: str
    app_id: UUID
    app: str
    service_tier: str
    urgency: float
    prompt_tokens: int
    max_tokens: int
    predicted_tokens: float
    predicted_p90_tokens: float
    prediction_source: str
    waited_s: float
    deadline_s: float | None
    start_by_s: float | None
    batch: str | None
    position: int | None
    ratio: float | None
    generated_tokens: int
    remaining_tokens: float
    expected_start_s: float | None
    expected_finish_s: float | None


class Totals(Struct, frozen=True, kw_only=True):
    """The whole queue; `waiting_tokens` are the predicted ones of what waits."""

    waiting: int
    running: int
    batches: int
    waiting_tokens: float
    longest_wait_s: float


class Queue(Struct, frozen=True, kw_only=True):
    """The queue in sum, and some of its requests: first what runs, then what waits, by turn."""

    totals: Totals
    requests: list[Queued]
    more: bool


class _Started(NamedTuple):
    live: RequestState
    remaining: float


def read_queue(
    table: RequestTable,
    engine: EngineSession,
    policy: Policy,
    *,
    now_s: float,
    limit: int,
    offset: int = 0,
    tenant: UUID | None = None,
) -> Queue:
    """The queue now, and of its requests, all or a tenant's, `limit` from `offset` on."""
    batches = policy.waiting(now_s)
    running = list(table.running.values())
    step_s = engine.step.took_s if engine.step else None
    left = remaining_tokens(running)
    free_s = first_free_s(running, left, now_s, step_s)
    wanted: Iterator[_Started | Turn] = chain(
        (
            _Started(live, tokens)
            for live, tokens in zip(running, left, strict=True)
            if tenant in {None, live.ask.caller.tenant_id}
        ),
        (
            turn
            for turn in turns(batches, len(running), free_s)
            if tenant is None or turn.request.tenant == tenant.hex
        ),
    )
    page = list(islice(wanted, offset, offset + limit + 1))
    return Queue(
        totals=_totals(table, batches, now_s),
        requests=[
            _waiting(table.waiting[each.request.id], each, now_s, expected=engine.accepting)
            if isinstance(each, Turn)
            else _running(each, now_s, step_s, expected=engine.accepting)
            for each in page[:limit]
        ],
        more=len(page) > limit,
    )


def _totals(table: RequestTable, batches: Sequence[WaitingBatch], now_s: float) -> Totals:
    return Totals(
        waiting=len(table.waiting),
        running=len(table.running),
        batches=len(batches),
        waiting_tokens=sum(request.median for batch in batches for request in batch.requests),
        longest_wait_s=max((now_s - batch.oldest_s for batch in batches), default=0.0),
    )


def _running(started: _Started, now_s: float, step_s: float | None, *, expected: bool) -> Queued:
    live, tokens = started
    pace = seconds_a_token(live, now_s, step_s) if expected else None
    return _queued(
        live,
        now_s,
        state="running",
        until_s=live.dispatched_s,
        batch=live.trace.batch,
        ratio=live.trace.ratio,
        remaining=tokens,
        finish_s=None if pace is None else tokens * pace,
    )


def _waiting(live: RequestState, turn: Turn, now_s: float, *, expected: bool) -> Queued:
    return _queued(
        live,
        now_s,
        state="waiting",
        batch=turn.batch.id,
        ratio=turn.batch.ratio,
        position=turn.position,
        remaining=live.prediction.median,
        start_s=turn.start_s if expected else None,
        finish_s=turn.finish_s if expected else None,
    )


def _queued(
    live: RequestState,
    now_s: float,
    *,
    state: Literal["waiting", "running"],
    batch: str | None,
    ratio: float | None,
    remaining: float,
    finish_s: float | None,
    until_s: float | None = None,
    start_s: float | None = None,
    position: int | None = None,
) -> Queued:
    ask, prediction = live.ask, live.prediction
    return Queued(
        id=live.id,
        state=state,
        tenant_id=ask.caller.tenant_id,
        tenant=ask.caller.tenant,
        app_id=ask.caller.app_id,
        app=ask.caller.app,
        service_tier=ask.service_tier,
        urgency=ask.urgency,
        prompt_tokens=len(live.prompt),
        max_tokens=live.max_tokens,
        predicted_tokens=prediction.median,
        predicted_p90_tokens=prediction.upper,
        prediction_source=prediction.source,
        waited_s=(now_s if until_s is None else until_s) - live.arrived_s,
        deadline_s=_from_now(live, ask.deadline_s, now_s),
        start_by_s=_from_now(live, ask.max_queue_s, now_s),
        batch=batch,
        position=position,
        ratio=ratio,
        generated_tokens=len(live.tokens),
        remaining_tokens=remaining,
        expected_start_s=start_s,
        expected_finish_s=finish_s,
    )


def _from_now(live: RequestState, allowed_s: float | None, now_s: float) -> float | None:
    return None if allowed_s is None else live.arrived_s + allowed_s - now_s
