"""What is remembered of a request. The spool keeps it as JSON, Postgres as a row."""

from datetime import datetime
from uuid import UUID

from msgspec import Struct


class Record(Struct, frozen=True, kw_only=True):
    """A finished request; the fields are the columns of `models.record.RequestRecord`.

    Durations are seconds. `features` are float32 bytes, embeddings float16 bytes.
    `instruction_embedding` is kept apart, once for each instruction.
    """

    arrived_at: datetime
    id: UUID
    tenant_id: UUID
    app_id: UUID
    api_key_id: UUID
    end_user: str | None
    model: str
    streamed: bool
    prompt_tokens: int
    user_input_tokens: int
    max_tokens: int
    temperature: float
    top_p: float
    quantiles: list[float]
    prediction_source: str
    predictor_id: UUID | None
    feature_version: int
    features: bytes
    instruction_hash: bytes
    instruction_embedding: bytes | None
    embedding: bytes | None
    generation_tokens: int
    finish_reason: str
    censored: bool
    policy: str
    batch_id: str | None
    batch_size: int | None
    preemptions: int
    queued_s: float | None
    first_token_s: float | None
    response_s: float
