"""Versions of the length predictor, their training runs, and the training schedule."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, new_id


class Predictor(Base):
    """A fitted version. At most one version per model is active."""

    __tablename__ = "predictors"
    __table_args__ = (
        Index("uq_predictors_active", "model", unique=True, postgresql_where=text("active")),
        Index(None, "model", "created_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    model: Mapped[str]
    model_hash: Mapped[str]
    feature_version: Mapped[int]
    active: Mapped[bool] = mapped_column(default=False)
    artefact: Mapped[bytes] = mapped_column(deferred=True)
    checksum: Mapped[bytes]
    metrics: Mapped[dict[str, Any]]
    trained_from: Mapped[datetime | None]
    trained_until: Mapped[datetime | None]
    rows: Mapped[int]
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    activated_at: Mapped[datetime | None]
    activated_by: Mapped[str | None]
    # The version that was active before this one; a roll-back activates it again.
    replaced_id: Mapped[UUID | None] = mapped_column(ForeignKey("predictors.id"))


class TrainingRun(Base):
    """A training run: `queued`, `running`, then `succeeded`, `failed` or `cancelled`.

    If `cancelled_by` is set and the run is not finished, its process is being killed.
    """

    __tablename__ = "training_runs"
    __table_args__ = (Index(None, "model", "created_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    model: Mapped[str]
    state: Mapped[str] = mapped_column(default="queued")
    error: Mapped[str | None]
    activate: Mapped[bool] = mapped_column(default=True)
    predictor_id: Mapped[UUID | None] = mapped_column(ForeignKey("predictors.id"))
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    trigger: Mapped[str] = mapped_column(default="operator", server_default="operator")
    cancelled_by: Mapped[str | None]
    # Progress, and the samples read per tenant: see `gateway.prediction.lifecycle.run_log`.
    phase: Mapped[str | None]
    rows_read: Mapped[int] = mapped_column(default=0, server_default="0")
    samples: Mapped[dict[str, Any] | None]


class TrainingSchedule(Base):
    """When a model's predictor is trained automatically. Without a row the defaults apply."""

    __tablename__ = "training_schedules"

    model: Mapped[str] = mapped_column(primary_key=True)
    settings: Mapped[dict[str, Any]]
    changed_by: Mapped[str]
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())
