"""Engine costs: what the steps of the engine took that served a part of history."""

from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class EngineCost(Base):
    """The engine of one run of a gateway: its size, and the cost of its steps in seconds.

    `requests.gateway_id` refers to it. `error` is the mean relative error of the modelled times of
    the `steps` that were measured.
    """

    __tablename__ = "engine_costs"

    gateway_id: Mapped[UUID] = mapped_column(primary_key=True)
    model: Mapped[str]
    device: Mapped[str]
    dtype: Mapped[str]
    measured_at: Mapped[datetime]
    steps: Mapped[int]
    error: Mapped[float]

    step_s: Mapped[float]
    prompt_token_s: Mapped[float]
    prompt_read_s: Mapped[float]
    sequence_s: Mapped[float]
    kv_token_s: Mapped[float]

    pages: Mapped[int]
    page_tokens: Mapped[int]
    context_tokens: Mapped[int]
    step_tokens: Mapped[int | None]
    max_sequences: Mapped[int | None]
