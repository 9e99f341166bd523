"""What the gateway asks its predictor, and what it is told."""

from typing import Final
from uuid import UUID

from msgspec import Struct, field

from gateway.quantiles import MEDIAN, P90

__all__ = ["SOURCES", "Embeddings", "Prediction", "Question"]

SOURCES: Final = ("model", "app", "tenant", "global", "prior")
"""Where a prediction comes from: a version, else the nearest history, else nothing but a prior."""


class Question(Struct, frozen=True, kw_only=True):
    """A request whose generation length is wanted."""

    tenant: UUID
    app: UUID
    end_user: str | None
    instruction: str
    user_input: str
    user_input_tokens: int
    prompt_tokens: int
    max_tokens: int
    temperature: float
    top_p: float


class Embeddings(Struct):
    """A request's vectors, float16 bytes: of its instruction, and of its text.

    They take their time: None until they are made.
    """

    instruction: bytes | None = None
    user_input: bytes | None = None


class Prediction(Struct, frozen=True, kw_only=True):
    """Quantiles of the generation length in tokens at `LEVELS`, rising, and its mean.

    All lie within 1 … max_tokens.

    `source` is one of `SOURCES`. Features and embeddings are kept with the outcome for training;
    the embeddings may still be on their way.
    """

    quantiles: tuple[float, float, float, float, float, float]
    mean: float
    source: str
    predictor: UUID | None
    feature_version: int
    features: bytes
    instruction_hash: bytes
    embeddings: Embeddings = field(default_factory=Embeddings)

    @property
    def median(self) -> float:
        """The statistic for order, WMA and serving time."""
        return self.quantiles[MEDIAN]

    @property
    def upper(self) -> float:
        """The statistic for memory: the 0.9 quantile."""
        return self.quantiles[P90]
