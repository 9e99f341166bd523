"""Batch jobs, their lines, and the gateways that work on them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, SmallInteger, func, text
from sqlalchemy.dialects.postgresql import JSONB, REAL
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, new_id


class Batch(Base):
    """A batch job of OpenAI's API: a request per line of its input file.

    `outcome` is the status that it will have once its files are written; null while lines wait or
    run. `owner` is the gateway that validates it or writes its files; `attempts` is how often that
    was begun and did not end, and it is begun again at `retry_at` at the earliest.
    """

    __tablename__ = "batches"
    __table_args__ = (
        Index(None, "tenant_id", "id"),
        Index(
            "ix_batches_open",
            "model",
            postgresql_where=text(
                "status IN ('validating', 'in_progress', 'finalizing', 'cancelling')"
            ),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    app_id: Mapped[UUID] = mapped_column(ForeignKey("apps.id", ondelete="CASCADE"))
    api_key_id: Mapped[UUID]
    model: Mapped[str]
    endpoint: Mapped[str]
    completion_window: Mapped[str]
    labels: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSONB())
    # No foreign keys: a tenant may delete its files at any time.
    input_file_id: Mapped[UUID]
    output_file_id: Mapped[UUID | None]
    error_file_id: Mapped[UUID | None]
    output_expires_s: Mapped[int | None]

    # Of the engine that its lines' prefixes were planned for; null while it is validated.
    page_tokens: Mapped[int | None]

    status: Mapped[str]
    outcome: Mapped[str | None]
    owner: Mapped[UUID | None]
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    retry_at: Mapped[datetime | None]
    errors: Mapped[list[Any] | None] = mapped_column(JSONB())
    sharing: Mapped[dict[str, Any] | None] = mapped_column(JSONB())

    total: Mapped[int] = mapped_column(server_default=text("0"))
    completed: Mapped[int] = mapped_column(server_default=text("0"))
    failed: Mapped[int] = mapped_column(server_default=text("0"))
    input_tokens: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    cached_tokens: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    output_tokens: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    # Predicted work in tokens, of all lines and of those that have ended; `progress` is what had
    # been done at some times: [[seconds since 1970, work], …]; `forecasts` what was expected then:
    # [[share of the work, seconds since 1970, seconds left, standard deviation in log], …].
    work: Mapped[float] = mapped_column(server_default=text("0"))
    work_done: Mapped[float] = mapped_column(server_default=text("0"))
    progress: Mapped[list[Any]] = mapped_column(JSONB(), server_default=text("'[]'"))
    forecasts: Mapped[list[Any]] = mapped_column(JSONB(), server_default=text("'[]'"))

    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    in_progress_at: Mapped[datetime | None]
    finalizing_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    expired_at: Mapped[datetime | None]
    cancelling_at: Mapped[datetime | None]
    cancelled_at: Mapped[datetime | None]


class BatchLine(Base):
    """A request of a job, until the job's files are written: then its lines are deleted.

    `body` is the request as it was sent, `result` its line of the output file or the error file,
    `page_hashes` the prompt's `PromptPages`, eight bytes each, little-endian. The line's group is
    inside that of the outer prefix, if it has one.
    `state` is a `gateway.jobs.batches.states.LineState`. Only the gateway `claimed_by` may end a
    line that runs.
    """

    __tablename__ = "batch_lines"
    __table_args__ = (
        Index("ix_batch_lines_waiting", "batch_id", "rank", postgresql_where=text("state = 0")),
        Index(
            "ix_batch_lines_running", "batch_id", "prefix_id", postgresql_where=text("state = 1")
        ),
        Index(
            "ix_batch_lines_sharing",
            "batch_id",
            "prefix_id",
            postgresql_where=text("state = 0 AND prefix_id IS NOT NULL"),
        ),
        Index("ix_batch_lines_claimed", "claimed_by", postgresql_where=text("state = 1")),
        Index(
            "uq_batch_lines_custom_id",
            "batch_id",
            "custom_id",
            unique=True,
            postgresql_where=text("state <> 3"),
        ),
    )

    batch_id: Mapped[UUID] = mapped_column(
        ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    custom_id: Mapped[str | None]
    body: Mapped[bytes | None] = mapped_column(deferred=True)
    prompt_tokens: Mapped[int]
    predicted_tokens: Mapped[float] = mapped_column(REAL)
    page_hashes: Mapped[bytes | None] = mapped_column(deferred=True)
    prefix_id: Mapped[str | None]
    prefix_tokens: Mapped[int] = mapped_column(server_default=text("0"))
    outer_prefix_id: Mapped[str | None]
    outer_prefix_tokens: Mapped[int] = mapped_column(server_default=text("0"))
    rank: Mapped[int]
    state: Mapped[int] = mapped_column(SmallInteger)
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    claimed_by: Mapped[UUID | None]
    generated_tokens: Mapped[int | None]
    result: Mapped[bytes | None]


class BatchWorker(Base):
    """A running gateway that works on jobs; after `expires_at` it counts as dead."""

    __tablename__ = "batch_workers"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    expires_at: Mapped[datetime]
