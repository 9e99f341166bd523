"""What the predictor process does with a micro-batch: embed it, then score it."""

from collections.abc import Sequence
from uuid import UUID

import numpy as np
import structlog

from gateway.errors import PredictorRefused
from gateway.prediction.artefact import decode
from gateway.prediction.embedder import Embedder
from gateway.prediction.features import from_bytes
from gateway.prediction.frames import Answer, Ask, Load, Loaded
from gateway.prediction.inputs import Inputs, embedding_from
from gateway.prediction.quantiles import QuantileModel

log = structlog.get_logger()


class Scorer:
    """The encoder, and the version in use if there is one."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._version: tuple[UUID, QuantileModel] | None = None

    def load(self, order: Load) -> Loaded:
        """Take a version into use; one that is refused leaves the one before in place."""
        try:
            model = QuantileModel(decode(order.artefact, model_hash=order.model_hash))
        except PredictorRefused as refused:
            return Loaded(order.predictor, refused.message)
        self._version = (order.predictor, model)
        log.info("predictor_version_loaded", predictor=str(order.predictor))
        return Loaded(order.predictor, None)

    def hasten(self, asks: Sequence[Ask]) -> list[Answer]:
        """Answers without the user inputs' embeddings, if a version is loaded; else none."""
        if self._version is None or not asks:
            return []
        instructions = [self._embedder.known(ask.instruction_hash) for ask in asks]
        return self._answers(asks, instructions, [None] * len(asks))

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        """One whole answer for each question, in their order."""
        if not asks:
            return []
        instructions, embeddings = self._embedder.embed(
            [(ask.instruction_hash, ask.instruction) for ask in asks],
            [ask.user_input for ask in asks],
        )
        return self._answers(asks, instructions, embeddings)

    def _answers(
        self,
        asks: Sequence[Ask],
        instructions: Sequence[bytes | None],
        embeddings: Sequence[bytes | None],
    ) -> list[Answer]:
        if self._version is None:
            rows = zip(asks, instructions, embeddings, strict=True)
            return [
                Answer(ask.number, instruction, embedding, None, None)
                for ask, instruction, embedding in rows
            ]
        predictor, model = self._version
        inputs = Inputs(
            apps=[ask.app for ask in asks],
            features=np.stack([from_bytes(ask.features) for ask in asks]),
            instructions=np.stack([embedding_from(row) for row in instructions]),
            instruction_of=np.arange(len(asks)),
            embeddings=np.stack([embedding_from(row) for row in embeddings]),
        )
        scored = model.predict(inputs).tolist()
        return [
            Answer(ask.number, instruction, embedding, predictor, tuple(quantiles))
            for ask, instruction, embedding, quantiles in zip(
                asks, instructions, embeddings, scored, strict=True
            )
        ]
