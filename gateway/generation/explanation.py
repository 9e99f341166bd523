"""Why a request waited as long as it did: from memory while it lives, then from history."""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from gateway.errors import DeadlineUnreachable
from gateway.generation.ask import URGENCY
from gateway.generation.dispatcher import Dispatcher
from gateway.generation.live import LiveRequest
from gateway.generation.reasons import Facts, why
from gateway.history.requests import Passes, RequestHistory
from models import RequestRecord


class Explained(Struct, frozen=True, kw_only=True):
    """A request's way through the queue; times in seconds count from its arrival.

    `why` says it in words. `policy_order` is `arrival` where the policy had fallen back on that.
    `queue_ahead` requests waited when it came. `passed_by` came later and started before it;
    `passes` tells why, once history knows. `expected_start_s` and `expected_finish_s` are as told
    at its arrival. `kv_free_pages` are those at its start. `gave_up` is `deadline` or `queue_time`.
    What is null has not happened, or was not recorded.
    """

    id: UUID
    state: Literal["waiting", "running", "ended"]
    why: str = ""
    tenant_id: UUID
    app_id: UUID
    arrived_at: datetime
    service_tier: str | None
    deadline_s: float | None
    prompt_tokens: int
    max_tokens: int
    quantiles: list[float]
    prediction_source: str
    predictor_id: UUID | None
    policy: str
    policy_order: str | None
    batch: str | None
    batch_size: int | None
    response_ratio: float | None
    overdue: bool | None
    queue_ahead: int | None
    passed_by: int | None
    passes: Passes | None
    kv_free_pages: int | None
    expected_start_s: float | None
    expected_finish_s: float | None
    waited_s: float
    first_token_s: float | None
    response_s: float | None
    preemptions: int
    generation_tokens: int
    finish_reason: str | None
    gave_up: str | None


async def explain(
    request_id: UUID,
    dispatcher: Dispatcher,
    history: RequestHistory,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Explained:
    """What became of a request of this gateway, or of one that ended on any. NotFound."""
    live = dispatcher.find(request_id)
    if live is not None:
        return explain_live(live, dispatcher.policy.name, clock())
    record = await history.find(request_id)
    own = URGENCY.get(record.service_tier or "default", 1.0)
    above = [tier for tier, urgency in URGENCY.items() if urgency > own]
    return explain_record(record, await history.passes(record, above))


def explain_record(record: RequestRecord, passes: Passes) -> Explained:
    """A request as history tells it, and who overtook it."""
    return _in_words(
        Explained(
            id=record.id,
            state="ended",
            tenant_id=record.tenant_id,
            app_id=record.app_id,
            arrived_at=record.arrived_at,
            service_tier=record.service_tier,
            deadline_s=record.deadline_s,
            prompt_tokens=record.prompt_tokens,
            max_tokens=record.max_tokens,
            quantiles=record.quantiles,
            prediction_source=record.prediction_source,
            predictor_id=record.predictor_id,
            policy=record.policy,
            policy_order=record.policy_order,
            batch=record.batch_id,
            batch_size=record.batch_size,
            response_ratio=record.response_ratio,
            overdue=record.overdue,
            queue_ahead=record.queue_ahead,
            passed_by=record.passed_by,
            passes=passes,
            kv_free_pages=record.kv_free_pages,
            expected_start_s=record.expected_start_s,
            expected_finish_s=record.expected_finish_s,
            waited_s=record.response_s if record.queued_s is None else record.queued_s,
            first_token_s=record.first_token_s,
            response_s=record.response_s,
            preemptions=record.preemptions,
            generation_tokens=record.generation_tokens,
            finish_reason=record.finish_reason,
            gave_up=record.gave_up,
        )
    )


def explain_live(live: LiveRequest, policy: str, now_s: float) -> Explained:
    """A request as memory has it: one that waits, runs, or has just ended."""
    caller, prediction, dispatch = live.ask.caller, live.prediction, live.dispatch
    until_s = next(at for at in (live.dispatched_s, live.finished_s, now_s) if at is not None)
    return _in_words(
        Explained(
            id=live.id,
            state="ended" if live.done else "waiting" if dispatch is None else "running",
            tenant_id=caller.tenant_id,
            app_id=caller.app_id,
            arrived_at=live.arrived_at,
            service_tier=live.ask.service_tier,
            deadline_s=live.ask.deadline_s,
            prompt_tokens=len(live.prompt),
            max_tokens=live.max_tokens,
            quantiles=list(prediction.quantiles),
            prediction_source=prediction.source,
            predictor_id=prediction.predictor,
            policy=live.policy or policy,
            policy_order=live.order,
            batch=dispatch.batch if dispatch else None,
            batch_size=len(dispatch.requests) if dispatch else None,
            response_ratio=dispatch.ratio if dispatch else None,
            overdue=dispatch.overdue if dispatch else None,
            queue_ahead=live.queue_ahead,
            passed_by=live.passed_by,
            passes=None,
            kv_free_pages=live.kv_free_pages,
            expected_start_s=live.expected_start_s,
            expected_finish_s=live.expected_finish_s,
            waited_s=until_s - live.arrived_s,
            first_token_s=_since(live, live.first_token_s),
            response_s=_since(live, live.finished_s),
            preemptions=live.preemptions,
            generation_tokens=len(live.tokens),
            finish_reason=live.finish_reason,
            gave_up=live.error.reason if isinstance(live.error, DeadlineUnreachable) else None,
        )
    )


def _since(live: LiveRequest, then_s: float | None) -> float | None:
    return None if then_s is None else then_s - live.arrived_s


def _in_words(explained: Explained) -> Explained:
    facts = Facts(
        state=explained.state,
        started=explained.batch is not None,
        waited_s=explained.waited_s,
        queue_ahead=explained.queue_ahead,
        passed_by=explained.passed_by,
        passes=explained.passes,
        policy_order=explained.policy_order,
        overdue=bool(explained.overdue),
        preemptions=explained.preemptions,
        gave_up=explained.gave_up,
    )
    return replace(explained, why=why(facts))
