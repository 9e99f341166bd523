"""Encodes the texts of a micro-batch and scores it."""

from collections.abc import Sequence
from uuid import UUID

import numpy as np
import structlog

from gateway.errors import PredictorRefused
from gateway.prediction.features.embedder import Embedder
from gateway.prediction.features.features import from_bytes
from gateway.prediction.features.text_encoder import TextEncoder
from gateway.prediction.model.artefact import decode
from gateway.prediction.model.inputs import EMBEDDING_DIMS, ModelInputs, unpack_vector
from gateway.prediction.model.length_model import LengthModel
from gateway.prediction.serving.frames import (
    LoadVersion,
    ScoreReply,
    ScoreRequest,
    VersionLoaded,
    VersionScore,
)

log = structlog.get_logger()


class Scorer:
    """The text encoder and the loaded version, if any, which another thread may replace."""

    def __init__(self, texts: TextEncoder, embedder: Embedder) -> None:
        self._texts = texts
        self._embedder = embedder
        self._version: tuple[UUID, LengthModel] | None = None

    def load(self, command: LoadVersion) -> VersionLoaded:
        """Switch to a version; a refused one leaves the previous in use."""
        try:
            model = LengthModel(decode(command.artefact, model_hash=command.model_hash))
        except PredictorRefused as refused:
            return VersionLoaded(command.predictor, refused.message)
        self._version = (command.predictor, model)
        log.info("predictor_version_loaded", predictor=str(command.predictor))
        return VersionLoaded(command.predictor, None)

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        """A reply for each request, in order."""
        if not requests:
            return []
        texts = [self._texts.encode(request.user_input).astype(np.float16) for request in requests]
        instructions = [
            self._embedder.embedding(request.instruction_hash, request.instruction)
            for request in requests
        ]
        rows = zip(requests, instructions, texts, strict=True)
        if self._version is None:
            return [
                ScoreReply(request.number, embedding, text.tobytes())
                for request, embedding, text in rows
            ]
        predictor, model = self._version
        scored = model.predict(
            ModelInputs(
                apps=[request.app for request in requests],
                features=np.stack([from_bytes(request.features) for request in requests]),
                instructions=np.stack([unpack_vector(row, EMBEDDING_DIMS) for row in instructions]),
                instruction_of=np.arange(len(requests)),
                text=np.stack(texts).astype(np.float32),
            )
        )
        found = zip(scored.quantiles.tolist(), scored.mean.tolist(), strict=True)
        return [
            ScoreReply(
                request.number,
                embedding,
                text.tobytes(),
                VersionScore(predictor, tuple(quantiles), mean),
            )
            for (request, embedding, text), (quantiles, mean) in zip(rows, found, strict=True)
        ]
