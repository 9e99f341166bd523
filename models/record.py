"""History: a record per request, and embeddings of the requests' instructions."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index, false, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base

# Nearly every request ends with one of these, in this tier: only the others are indexed by them.
USUAL_OUTCOMES = ("stop", "length")
USUAL_TIER = "default"
RARE_OUTCOME = "finish_reason NOT IN ('stop', 'length')"
RARE_TIER = "service_tier <> 'default'"


class RequestRecord(Base):
    """A finished request: its parameters, prediction and result, never its text.

    The arrival time leads the primary key, so the table can be partitioned by it.
    """

    __tablename__ = "requests"
    __table_args__ = (
        Index(None, "app_id", "arrived_at"),
        Index(None, "tenant_id", "arrived_at"),
        Index(None, "model", "arrived_at"),
        # For lists: see `gateway.history.listing`.
        Index(None, "api_key_id", "arrived_at"),
        Index(None, "end_user", "arrived_at", postgresql_where=text("end_user IS NOT NULL")),
        *(
            Index(None, *of, "finish_reason", "arrived_at", postgresql_where=text(RARE_OUTCOME))
            for of in ((), ("tenant_id",), ("app_id",), ("api_key_id",))
        ),
        Index(None, "service_tier", "arrived_at", postgresql_where=text(RARE_TIER)),
        # For random samples of an app's rows by an index-only scan: see
        # `gateway.prediction.training.sampling`.
        Index(
            "ix_requests_sampling",
            "model",
            "feature_version",
            "app_id",
            "hard",
            text("uuid_hash_extended(id, 0)"),
            postgresql_include=["id", "arrived_at", "tenant_id", "service_tier"],
            postgresql_where=text(
                "feature_version > 0 AND (NOT censored OR generation_tokens > 0)"
            ),
        ),
        Index(
            "ix_requests_erased",
            "model",
            "tenant_id",
            postgresql_where=text("feature_version = 0"),
        ),
    )

    arrived_at: Mapped[datetime] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)

    # The caller. No foreign keys: history outlives tenants, apps and keys.
    tenant_id: Mapped[UUID]
    app_id: Mapped[UUID]
    api_key_id: Mapped[UUID]
    end_user: Mapped[str | None]

    # The request.
    model: Mapped[str]
    streamed: Mapped[bool]
    prompt_tokens: Mapped[int]
    user_input_tokens: Mapped[int]
    max_tokens: Mapped[int]
    temperature: Mapped[float]
    top_p: Mapped[float]

    # Free, JSON or tool: see `gateway.prediction.messages.Form`. Null in rows of earlier releases.
    form: Mapped[str | None]

    # The prediction. Feature version 0: erased, or not stored: the tenant opted out, or the length
    # was forced.
    quantiles: Mapped[list[float]]
    prediction_source: Mapped[str]
    predictor_id: Mapped[UUID | None]
    feature_version: Mapped[int]
    features: Mapped[bytes]
    first_scored: Mapped[bytes | None]  # what the version predicted before it read embeddings
    instruction_hash: Mapped[bytes]
    embedding: Mapped[bytes | None]  # the text vector
    input_embedding: Mapped[bytes | None]  # the sentence embedding of the user input
    embedder: Mapped[str | None]  # which made it

    # The result.
    generation_tokens: Mapped[int]
    finish_reason: Mapped[str]
    censored: Mapped[bool]
    forced: Mapped[bool | None]  # by the request's parameters: the length says nothing of the text
    policy: Mapped[str]
    batch_id: Mapped[str | None]
    batch_size: Mapped[int | None]
    preemptions: Mapped[int]
    queued_s: Mapped[float | None]
    first_token_s: Mapped[float | None]
    response_s: Mapped[float]
    hard: Mapped[bool] = mapped_column(default=False, server_default=false())

    # Scheduling; null in rows of earlier releases.
    service_tier: Mapped[str | None]
    deadline_s: Mapped[float | None]
    policy_order: Mapped[str | None]
    queue_ahead: Mapped[int | None]
    passed_by: Mapped[int | None]
    expected_start_s: Mapped[float | None]
    expected_finish_s: Mapped[float | None]
    response_ratio: Mapped[float | None]
    overdue: Mapped[bool | None]
    kv_free_pages: Mapped[int | None]
    preempted_s: Mapped[float | None]
    gave_up: Mapped[str | None]
    gateway_id: Mapped[UUID | None]

    # Usage. `first_id` is the request's id in the rows of its further choices.
    first_id: Mapped[UUID | None]
    cached_tokens: Mapped[int | None]
    price_id: Mapped[UUID | None]


class Instruction(Base):
    """The embedding of an instruction, stored once per embedder, under the instruction's SHA-256.

    The embedder of rows of earlier releases is ''. `used_at` is within a day of its last use.
    """

    __tablename__ = "instructions"
    __table_args__ = (Index(None, "used_at"),)

    hash: Mapped[bytes] = mapped_column(primary_key=True)
    embedder: Mapped[str] = mapped_column(primary_key=True, server_default=text("''"))
    embedding: Mapped[bytes]
    used_at: Mapped[datetime] = mapped_column(server_default=func.now())
