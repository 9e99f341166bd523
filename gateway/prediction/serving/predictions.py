"""The predictions of the length history and of a version, as they are served and recorded."""

import math
from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from gateway.history.record import Record
from gateway.prediction.adaptation.adaptation import Adaptation
from gateway.prediction.expectation import expected_tokens, limited_mean
from gateway.prediction.features.features import (
    FEATURE_VERSION,
    USER_INPUT_COLUMN,
    Vector,
    noted,
    with_raw_quantiles,
)
from gateway.prediction.features.length_history import RequestHistory
from gateway.prediction.messages import Embeddings, Prediction, PredictionRequest, Stage
from gateway.prediction.serving.frames import ScoreReply, VersionScore
from gateway.prediction.serving.learned import Learned
from gateway.prediction.serving.open_prediction import OpenPrediction


def by_history(
    request: PredictionRequest,
    learned: Learned,
    history: RequestHistory,
    vector: Vector,
    digest: bytes,
) -> Prediction:
    """The prediction of the length history, calibrated by its outcomes."""
    levels = learned.bands.serve(
        history.source,
        request.app,
        history.app.quantiles,
        request.max_tokens,
        form=request.form,
    )
    return Prediction(
        quantiles=_six(levels),
        mean=_within(float(expected_tokens(np.array(levels))), request.max_tokens),
        source=history.source,
        predictor=None,
        feature_version=FEATURE_VERSION,
        features=with_raw_quantiles(vector, history.app.quantiles).tobytes(),
        instruction_hash=digest,
    )


def by_version(
    opened: OpenPrediction, learned: Learned, score: VersionScore, stage: Stage
) -> Prediction:
    """The prediction of a version, corrected and calibrated by its outcomes."""
    request = opened.request
    # While a version is being loaded, the previous one still answers.
    adaptation = learned.adaptations.get(score.predictor) or Adaptation()
    log_uil = float(opened.vector[USER_INPUT_COLUMN])
    key = request.stratum
    levels = adaptation.serve(
        key, log_uil, score.quantiles, request.max_tokens, first=stage == "text"
    )
    corrected = adaptation.corrected(key, log_uil, score.quantiles)
    natural = [math.exp(log) for log in corrected]
    shift = adaptation.shift(key, log_uil, score.quantiles)
    mean = limited_mean(score.mean * math.exp(shift), natural, request.max_tokens)
    first = opened.first
    if first is not None and first.predictor != score.predictor:
        first = None  # the version was changed between the two
    return replace(
        opened.newest,
        quantiles=_six(levels),
        mean=_within(mean, request.max_tokens),
        source="model",
        predictor=score.predictor,
        features=with_raw_quantiles(opened.vector, score.quantiles).tobytes(),
        stage=stage,
        first_scored=noted(first.quantiles).tobytes() if first else None,
    )


def _six(levels: Sequence[float]) -> tuple[float, float, float, float, float, float]:
    q10, q25, q50, q75, q90, q95 = levels
    return q10, q25, q50, q75, q90, q95


def _within(mean: float, max_tokens: int) -> float:
    return min(max(mean, 1.0), float(max_tokens))


def as_predicted(record: Record, prediction: Prediction) -> Record:
    """The record as it would be if this prediction had come before the end."""
    return replace(
        record,
        quantiles=list(prediction.quantiles),
        prediction_source=prediction.source,
        predictor_id=prediction.predictor,
        features=prediction.features,
        first_scored=prediction.first_scored,
    )


def keep_embeddings(embeddings: Embeddings, reply: ScoreReply, embedder: str) -> None:
    """Store the vectors of a reply for the record."""
    embeddings.text = reply.text
    embeddings.instruction = reply.instruction_embedding
    embeddings.user_input = reply.input_embedding
    embeddings.embedder = embedder
