"""Versions of the length predictor, and the training runs that make them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, new_id


class Predictor(Base):
    """One fitted version. At most one version of a model is active at a time."""

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


class TrainingRun(Base):
    """One fitting of a predictor: `queued`, `running`, then `succeeded` or `failed`."""

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
