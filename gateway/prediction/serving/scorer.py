"""What the predictor process does with a micro-batch: encode its texts, then score it."""

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
    """The encoder, and the version in use if there is one, which another thread may exchange."""

    def __init__(self, texts: TextEncoder, embedder: Embedder) -> None:
        self._texts = texts
        self._embedder = embedder
        self._version: tuple[UUID, LengthModel] | None = None

    def load(self, order: LoadVersion) -> VersionLoaded:
        """Take a version into use; one that is refused leaves the one before in place."""
        try:
            model = LengthModel(decode(order.artefact, model_hash=order.model_hash))
        except PredictorRefused as refused:
            return VersionLoaded(order.predictor, refused.message)
        self._version = (order.predictor, model)
        log.info("predictor_version_loaded", predictor=str(order.predictor))
        return VersionLoaded(order.predictor, None)

    def answer(self, asks: Sequence[ScoreRequest]) -> list[ScoreReply]:
        """One answer for each question, in their order."""
        if not asks:
            return []
        texts = [self._texts.encode(ask.user_input).astype(np.float16) for ask in asks]
        instructions = [self._embedder.known(ask.instruction_hash, ask.instruction) for ask in asks]
        rows = zip(asks, instructions, texts, strict=True)
        if self._version is None:
            return [ScoreReply(ask.number, known, text.tobytes()) for ask, known, text in rows]
        predictor, model = self._version
        scored = model.predict(
            ModelInputs(
                apps=[ask.app for ask in asks],
                features=np.stack([from_bytes(ask.features) for ask in asks]),
                instructions=np.stack([unpack_vector(row, EMBEDDING_DIMS) for row in instructions]),
                instruction_of=np.arange(len(asks)),
                text=np.stack(texts).astype(np.float32),
            )
        )
        found = zip(scored.quantiles.tolist(), scored.mean.tolist(), strict=True)
        return [
            ScoreReply(
                ask.number, known, text.tobytes(), VersionScore(predictor, tuple(quantiles), mean)
            )
            for (ask, known, text), (quantiles, mean) in zip(rows, found, strict=True)
        ]
