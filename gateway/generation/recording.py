"""What history keeps of a request."""

from typing import Final
from uuid import UUID

from msgspec import Struct

from gateway.errors import DeadlineUnreachable
from gateway.generation.request_state import RequestState
from gateway.history.record import Record

UNFINISHED: Final = "unfinished"  # never in history


class Origin(Struct, frozen=True):
    """Where requests are served: the model, and this run of the gateway."""

    model: str
    gateway_id: UUID


def record_of(live: RequestState, origin: Origin, policy: str, now_s: float) -> Record:
    """The record of a request, as if one that has not ended did so now.

    `policy` is the one at work now, for a request that was never dispatched. Only an answer that
    the model ended by itself has its natural length; the others are censored.
    """
    caller, prediction, trace = live.ask.caller, live.prediction, live.trace
    return Record(
        arrived_at=live.arrived_at,
        id=live.id,
        tenant_id=caller.tenant_id,
        app_id=caller.app_id,
        api_key_id=caller.api_key_id,
        end_user=live.ask.end_user,
        model=origin.model,
        streamed=live.ask.streamed,
        prompt_tokens=len(live.prompt),
        user_input_tokens=live.user_input_tokens,
        max_tokens=live.max_tokens,
        temperature=live.ask.sampling.temperature,
        top_p=live.ask.sampling.top_p,
        quantiles=list(prediction.quantiles),
        prediction_source=prediction.source,
        predictor_id=prediction.predictor,
        feature_version=prediction.feature_version,
        features=prediction.features,
        instruction_hash=prediction.instruction_hash,
        instruction_embedding=prediction.embeddings.instruction,
        embedding=prediction.embeddings.user_input,
        generation_tokens=len(live.tokens),
        finish_reason=live.finish_reason or UNFINISHED,
        censored=live.finish_reason != "stop",
        policy=trace.policy or policy,
        gateway_id=origin.gateway_id,
        batch_id=trace.batch,
        batch_size=trace.batch_size,
        preemptions=live.preemptions,
        queued_s=_since(live.arrived_s, live.dispatched_s),
        first_token_s=_since(live.arrived_s, live.first_token_s),
        response_s=(live.finished_s or now_s) - live.arrived_s,
        service_tier=live.ask.service_tier,
        deadline_s=live.ask.deadline_s,
        policy_order=trace.order,
        queue_ahead=trace.queue_ahead,
        passed_by=trace.passed_by,
        expected_start_s=trace.expected_start_s,
        expected_finish_s=trace.expected_finish_s,
        response_ratio=trace.ratio,
        overdue=trace.overdue,
        kv_free_pages=trace.kv_free_pages,
        gave_up=live.error.reason if isinstance(live.error, DeadlineUnreachable) else None,
    )


def _since(arrived_s: float, then_s: float | None) -> float | None:
    return None if then_s is None else then_s - arrived_s
