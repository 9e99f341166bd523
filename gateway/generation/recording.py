"""Builds the history record of a request."""

from typing import Final
from uuid import UUID

from msgspec import Struct

from gateway.errors import DeadlineUnreachable
from gateway.generation.request_state import RequestState
from gateway.history.record import Record

UNFINISHED: Final = "unfinished"  # finish reason of a request in memory; never in history


class Origin(Struct, frozen=True):
    """The served model and the id of this run of the gateway."""

    model: str
    gateway_id: UUID


def record_of(state: RequestState, origin: Origin, policy: str, now_s: float) -> Record:
    """The record of a request; one that has not ended is recorded as if it ended now.

    `policy` is the active one, for a request that was never dispatched. The prediction is the
    newest that came before the end, the model's if that came at all: its quality is judged by these
    rows. What the start went by may have been an earlier one, which metrics count. An answer that
    the model did not end itself is censored: its natural length is unknown. One whose length was
    forced is recorded without features.
    """
    caller, prediction, trace = state.request.caller, state.prediction, state.trace
    record = Record(
        arrived_at=state.arrived_at,
        id=state.id,
        tenant_id=caller.tenant_id,
        app_id=caller.app_id,
        api_key_id=caller.api_key_id,
        end_user=state.request.end_user,
        model=origin.model,
        streamed=state.request.streamed,
        prompt_tokens=len(state.prompt),
        user_input_tokens=state.user_input_tokens,
        max_tokens=state.max_tokens,
        temperature=state.request.sampling.temperature,
        top_p=state.request.sampling.top_p,
        quantiles=list(prediction.quantiles),
        prediction_source=prediction.source,
        predictor_id=prediction.predictor,
        feature_version=prediction.feature_version,
        features=prediction.features,
        first_scored=prediction.first_scored,
        instruction_hash=prediction.instruction_hash,
        instruction_embedding=prediction.embeddings.instruction,
        embedding=prediction.embeddings.text,
        input_embedding=prediction.embeddings.user_input,
        embedder=prediction.embeddings.embedder,
        generation_tokens=len(state.tokens),
        finish_reason=state.finish_reason or UNFINISHED,
        censored=state.finish_reason != "stop",
        policy=trace.policy or policy,
        gateway_id=origin.gateway_id,
        first_id=state.first_id,
        cached_tokens=state.cached_tokens,
        batch_id=trace.batch,
        batch_size=trace.batch_size,
        preemptions=state.preemptions,
        queued_s=_since(state.arrived_s, state.dispatched_s),
        first_token_s=_since(state.arrived_s, state.first_token_s),
        response_s=(state.finished_s or now_s) - state.arrived_s,
        service_tier=state.request.recorded_tier,
        deadline_s=state.request.deadline_s,
        policy_order=trace.order,
        queue_ahead=trace.queue_ahead,
        passed_by=trace.passed_by,
        expected_start_s=trace.expected_start_s,
        expected_finish_s=trace.expected_finish_s,
        response_ratio=trace.ratio,
        overdue=trace.overdue,
        kv_free_pages=trace.kv_free_pages,
        gave_up=state.error.reason if isinstance(state.error, DeadlineUnreachable) else None,
        form=state.request.form,
        forced=state.forced,
        preempted_s=state.preempted_until(state.finished_s or now_s),
    )
    return record.without_features() if state.forced else record


def _since(arrived_s: float, then_s: float | None) -> float | None:
    return None if then_s is None else then_s - arrived_s
