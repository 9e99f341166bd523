"""What history keeps of a request that ended."""

from gateway.errors import DeadlineUnreachable
from gateway.generation.live import LiveRequest
from gateway.history.record import Record


def record_of(live: LiveRequest, model: str, policy: str) -> Record:
    """The record of an ended request.

    Only an answer the model ended itself shows its natural length; the others are censored.
    """
    assert live.finished_s is not None
    assert live.finish_reason is not None
    caller, prediction = live.ask.caller, live.prediction
    return Record(
        arrived_at=live.arrived_at,
        id=live.id,
        tenant_id=caller.tenant_id,
        app_id=caller.app_id,
        api_key_id=caller.api_key_id,
        end_user=live.ask.end_user,
        model=model,
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
        finish_reason=live.finish_reason,
        censored=live.finish_reason != "stop",
        policy=policy,
        batch_id=live.dispatch.batch if live.dispatch else None,
        batch_size=len(live.dispatch.requests) if live.dispatch else None,
        preemptions=live.preemptions,
        queued_s=_since(live.arrived_s, live.dispatched_s),
        first_token_s=_since(live.arrived_s, live.first_token_s),
        response_s=live.finished_s - live.arrived_s,
        service_tier=live.ask.service_tier,
        deadline_s=live.ask.deadline_s,
        policy_order=live.order,
        queue_ahead=live.queue_ahead,
        passed_by=live.passed_by,
        expected_start_s=live.expected_start_s,
        expected_finish_s=live.expected_finish_s,
        response_ratio=live.dispatch.ratio if live.dispatch else None,
        overdue=live.dispatch.overdue if live.dispatch else None,
        kv_free_pages=live.kv_free_pages,
        gave_up=live.error.reason if isinstance(live.error, DeadlineUnreachable) else None,
    )


def _since(arrived_s: float, then_s: float | None) -> float | None:
    return None if then_s is None else then_s - arrived_s
