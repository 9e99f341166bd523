"""Explains why a request waited: from memory until it ends, then from history."""

from datetime import datetime
from typing import Final, Literal, TypeAlias
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from engine.protocol import KvPlacement
from gateway.generation.insight.reasons import WaitFacts, explain_wait
from gateway.generation.insight.times import RequestTimes, request_times
from gateway.generation.request import URGENCY
from gateway.generation.request_state import HostReason, RequestState
from gateway.history.record import BATCH_TIER, Record
from gateway.history.requests import OvertakingCounts, RequestHistory
from gateway.scheduling.lmaas.inner_shares import Level
from gateway.scheduling.requests import Lane
from models import RequestRecord

State: TypeAlias = Literal["waiting", "running", "ended"]


class Explanation(Struct, frozen=True, kw_only=True):
    """A request's path through the queue; times are seconds from its arrival.

    `why` is the explanation in words. `policy_order` is `arrival` if the policy had fallen back to
    order of arrival. `queue_ahead` requests waited when it arrived. `passed_by` requests arrived
    later and started earlier; `passes` counts them by reason once history has them.
    `expected_start_s` and `expected_finish_s` are the estimates made at its arrival. `lane` is
    `batch` for a line of a batch job; while it is held, `group` is the group of such a line and
    `shared_tokens` the prompt tokens that its members share. `waits_for_share` is `app` or `user`
    while it is held back because its app or user has had more than its share and others wait.
    `times` says where all its time went, until its end or until now. While it is held, `memory` is
    where its keys and values are or will be, and `memory_reason` why that is host memory.
    `kv_free_pages` counts the free KV pages at its start. `gave_up` is the bound for which it was
    shed, `deadline` or `queue_time`. A null field has not happened yet or was not recorded.
    """

    id: UUID
    state: State
    why: str = ""
    tenant_id: UUID
    app_id: UUID
    arrived_at: datetime
    lane: Lane = "interactive"
    group: str | None = None
    shared_tokens: int | None = None
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
    passes: OvertakingCounts | None
    waits_for_share: Level | None = None
    kv_free_pages: int | None
    expected_start_s: float | None
    expected_finish_s: float | None
    waited_s: float
    first_token_s: float | None
    response_s: float | None
    times: RequestTimes
    preemptions: int
    generation_tokens: int
    finish_reason: str | None
    gave_up: str | None
    memory: KvPlacement | None = None
    memory_reason: HostReason | None = None


COMPUTED: Final = frozenset(
    {
        "state",
        "why",
        "lane",
        "group",
        "shared_tokens",
        "batch",
        "passes",
        "waited_s",
        "waits_for_share",
        "times",
        "memory",
        "memory_reason",
    }
)
RECORDED: Final = tuple(name for name in Explanation.__struct_fields__ if name not in COMPUTED)


async def explain_ended(request_id: UUID, history: RequestHistory) -> Explanation:
    """Explain a request that ended, on any gateway. NotFound."""
    record = await history.find(request_id)
    if record.service_tier == BATCH_TIER:  # it arrived with its batch, and may wait for hours
        return explain(record, "ended")
    own = URGENCY.get(record.service_tier or "default", 1.0)
    above = [tier for tier, urgency in URGENCY.items() if urgency > own]
    return explain(record, "ended", await history.count_overtaking(record, above))


def explain_held(
    request: RequestState, record: Record, waits_for_share: Level | None
) -> Explanation:
    """Explain a request in memory: queued, running, or just ended."""
    reason = request.host_reason
    if request.ended:
        ended = explain(record, "ended", host_reason=reason)
        return replace(ended, memory=request.memory, memory_reason=reason)
    waits = request.dispatched_s is None or request.queued_again
    state: State = "waiting" if waits else "running"
    return replace(
        explain(record, state, waits_for_share=waits_for_share, host_reason=reason),
        response_s=None,
        finish_reason=None,
        group=request.prefix.id if request.prefix else None,
        shared_tokens=request.prefix.tokens if request.prefix else None,
        memory=request.memory,
        memory_reason=reason,
    )


def explain(
    record: Record | RequestRecord,
    state: State,
    passes: OvertakingCounts | None = None,
    waits_for_share: Level | None = None,
    host_reason: HostReason | None = None,
) -> Explanation:
    """Explain a record of a request in this state."""
    recorded = {name: getattr(record, name) for name in RECORDED}
    times = request_times(
        record.response_s,
        queued_s=record.queued_s,
        first_token_s=record.first_token_s,
        preempted_s=record.preempted_s,
    )
    explained = Explanation(
        state=state,
        lane="batch" if record.service_tier == BATCH_TIER else "interactive",
        batch=record.batch_id,
        passes=passes,
        waits_for_share=waits_for_share,
        waited_s=record.response_s if record.queued_s is None else record.queued_s,
        times=times,
        **recorded,
    )
    facts = WaitFacts(
        state=state,
        started=explained.batch is not None,
        waited_s=explained.waited_s,
        queue_ahead=explained.queue_ahead,
        passed_by=explained.passed_by,
        passes=passes,
        policy_order=explained.policy_order,
        waits_for_share=waits_for_share,
        overdue=bool(explained.overdue),
        preemptions=explained.preemptions,
        times=None if explained.first_token_s is None else times,
        gave_up=explained.gave_up,
        host_reason=host_reason,
    )
    return replace(explained, why=explain_wait(facts))
