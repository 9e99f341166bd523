"""The numeric features of a request.

The gateway computes the vector when the request arrives and stores it with the outcome; training
reads the stored vector, so training and serving see the same values. A change of a name, the order
or a definition needs a new FEATURE_VERSION; predictor versions are bound to one.

The last columns, `NOTES`, are not model inputs: they hold the raw quantiles that the model, or
without one the length history, predicted (ln tokens; 0 if unknown), for bias correction and
calibration.
"""

import math
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gateway.prediction.features.length_history import LengthStatistics, RequestHistory
from gateway.prediction.messages import PredictionRequest
from gateway.quantiles import LEVELS

FEATURE_VERSION: Final = 2

_REQUEST: Final = (
    "log_user_input_tokens",
    "log_prompt_tokens",
    "log_max_tokens",
    "temperature",
    "top_p",
    "log_instruction_chars",
)
_HISTORY: Final = ("mean", "spread", "q10", "q50", "q90", "log_count", "log_recency")

INPUTS: Final = (
    *_REQUEST,
    *(f"app_{name}" for name in _HISTORY),
    *(f"user_{name}" for name in _HISTORY),
    "user_over_app",
)
NOTED_LEVELS: Final = (0.5, 0.9, 0.95)
NOTES: Final = tuple(f"scored_{level}" for level in NOTED_LEVELS)
NAMES: Final = (*INPUTS, *NOTES)

USER_INPUT_COLUMN: Final = INPUTS.index("log_user_input_tokens")
FEATURE_BYTES: Final = len(NAMES) * np.dtype(np.float32).itemsize
NOTED_BYTES: Final = len(NOTES) * np.dtype(np.float32).itemsize

Vector: TypeAlias = NDArray[np.float32]


def features(request: PredictionRequest, history: RequestHistory) -> Vector:
    """The vector `NAMES` of a request: (len(NAMES),) float32, all finite."""
    return np.array(
        [
            math.log1p(max(request.user_input_tokens, 0)),
            math.log1p(max(request.prompt_tokens, 0)),
            math.log1p(max(request.max_tokens, 0)),
            request.temperature,
            request.top_p,
            math.log1p(len(request.instruction)),
            *_statistics(history.app),
            *_statistics(history.user),
            history.user.mean - history.app.mean,
            *(0.0 for _ in NOTES),
        ],
        dtype=np.float32,
    )


def with_raw_quantiles(vector: Vector, scored: tuple[float, ...]) -> Vector:
    """The vector with the raw ln quantiles, given at `LEVELS`, in its last columns."""
    kept = vector.copy()
    kept[len(INPUTS) :] = noted(scored)
    return kept


def noted(scored: tuple[float, ...]) -> Vector:
    """Of ln quantiles at `LEVELS` those at `NOTED_LEVELS`."""
    return np.array([scored[LEVELS.index(level)] for level in NOTED_LEVELS], dtype=np.float32)


def raw_quantiles(vector: Vector) -> tuple[float, ...]:
    """The ln quantiles at `NOTED_LEVELS` stored in a vector, ascending."""
    return tuple(vector[len(INPUTS) :].tolist())


def from_bytes(stored: bytes) -> Vector:
    """The vector stored in a record. ValueError if its size is not this feature version's."""
    vector = np.frombuffer(stored, dtype=np.float32)
    if len(vector) != len(NAMES):
        raise ValueError(f"{len(vector)} features, {len(NAMES)} expected")
    return vector


def is_finite(stored: bytes, size: int) -> bool:
    """Whether a stored float32 vector has this size in bytes, and finite numbers alone."""
    return len(stored) == size and bool(np.isfinite(np.frombuffer(stored, dtype=np.float32)).all())


def _statistics(lengths: LengthStatistics) -> tuple[float, ...]:
    q10, _, q50, _, q90, _ = lengths.quantiles
    return (
        lengths.mean,
        lengths.spread,
        q10,
        q50,
        q90,
        math.log1p(lengths.count),
        math.log1p(lengths.recency_s),
    )
