"""Encodes the texts of a micro-batch and scores it, first without their embeddings, then with."""

from collections.abc import Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

import numpy as np
import structlog
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from gateway.errors import PredictorRefused
from gateway.prediction.features.embedder import Embedded, Embedder
from gateway.prediction.features.embedder_model import EmbedderModel
from gateway.prediction.features.features import from_bytes
from gateway.prediction.features.text_encoder import TextEncoder
from gateway.prediction.messages import Stage
from gateway.prediction.model.artefact import decode
from gateway.prediction.model.inputs import ModelInputs, form_codes, unpack_vector
from gateway.prediction.serving.frames import (
    LoadVersion,
    Ping,
    RequestDropped,
    RequestsStarted,
    ScoreReply,
    ScoreRequest,
    VersionLoaded,
    VersionScore,
)
from gateway.prediction.work_limits import IMPORTING, WorkLimits

if TYPE_CHECKING:
    from gateway.prediction.model.length_model import LengthModel

log = structlog.get_logger()


class EncodedRequest(Struct, frozen=True):
    """A request with its text vector, float16."""

    request: ScoreRequest
    text: NDArray[np.float16]


EmbeddedRequest: TypeAlias = Embedded[EncodedRequest]
Arrival: TypeAlias = ScoreRequest | RequestsStarted | Ping | EmbeddedRequest
Arrivals: TypeAlias = SimpleQueue[Arrival]


class Scorer:
    """The encoders and the loaded version, if any, which another thread may replace.

    Requests whose embeddings have been computed are put into `arrivals`.
    """

    def __init__(
        self,
        texts: TextEncoder,
        embedder: EmbedderModel,
        arrivals: Arrivals,
        limits: WorkLimits | None = None,
    ) -> None:
        self._texts = texts
        self._embedder: Embedder[EncodedRequest] = Embedder(
            embedder, arrivals.put, limits or WorkLimits()
        )
        self._version: tuple[UUID, LengthModel] | None = None

    def prepare(self) -> None:
        """Import what a version needs, with the first: LightGBM takes a second."""
        with IMPORTING:
            import gateway.prediction.model.length_model  # noqa: F401, PLC0415

    def load(self, command: LoadVersion) -> VersionLoaded:
        """Switch to a version; a refused one leaves the previous in use."""
        self.prepare()
        from gateway.prediction.model.length_model import LengthModel  # noqa: PLC0415

        try:
            artefact = decode(
                command.artefact,
                model_hash=command.model_hash,
                embedder=self._embedder.model.id,
            )
            model = LengthModel(artefact)
        except PredictorRefused as refused:
            return VersionLoaded(command.predictor, refused.message)
        except Exception as error:  # a damaged version must not end the thread that loads
            log.exception("predictor_version_not_loaded", predictor=str(command.predictor))
            return VersionLoaded(command.predictor, f"{type(error).__name__}: {error}")
        self._version = (command.predictor, model)
        log.info("predictor_version_loaded", predictor=str(command.predictor))
        return VersionLoaded(command.predictor, None)

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        """The first reply to each request, in order; its text may be queued for the embedder."""
        encoded = [
            EncodedRequest(each, self._texts.encode(each.user_input).astype(np.float16))
            for each in requests
        ]
        replies = self._replies(encoded, [None] * len(encoded), last=False)
        return [
            self._with_embedding(each, reply) for each, reply in zip(encoded, replies, strict=True)
        ]

    def _with_embedding(self, encoded: EncodedRequest, reply: ScoreReply) -> ScoreReply:
        """The first reply, after the text has been queued if it is to be embedded."""
        request = encoded.request
        if not request.embed:
            return replace(reply, last=True)
        if self._embedder.submit(request.user_input, encoded, request.deadline_s):
            return reply
        return replace(reply, last=True, shed=True)

    def score_embedded(
        self, embedded: Sequence[EmbeddedRequest]
    ) -> list[ScoreReply | RequestDropped]:
        """The second reply to each request; those that were not embedded in time are dropped."""
        ready = [each for each in embedded if each.embedding is not None]
        late = [
            RequestDropped(each.payload.request.number)
            for each in embedded
            if each.embedding is None
        ]
        replies = self._replies(
            [each.payload for each in ready], [each.embedding for each in ready], last=True
        )
        return [*late, *replies]

    def _replies(
        self, encoded: Sequence[EncodedRequest], inputs: Sequence[bytes | None], *, last: bool
    ) -> list[ScoreReply]:
        instructions = [
            self._embedder.instruction(each.request.instruction_hash, each.request.instruction)
            for each in encoded
        ]
        version = self._version
        scores = self._scores(version, encoded, instructions, inputs)
        reads = version is None or version[1].reads_sentences
        stage: Stage = "embeddings" if last and reads else "text"
        return [
            ScoreReply(
                each.request.number,
                instruction,
                each.text.tobytes(),
                scored,
                stage,
                last=last,
                input_embedding=own,
            )
            for each, instruction, own, scored in zip(
                encoded, instructions, inputs, scores, strict=True
            )
        ]

    def _scores(
        self,
        version: "tuple[UUID, LengthModel] | None",
        encoded: Sequence[EncodedRequest],
        instructions: Sequence[bytes | None],
        inputs: Sequence[bytes | None],
    ) -> Sequence[VersionScore | None]:
        """The version's predictions; None without a version. One that fails is given up."""
        if version is None or not encoded:
            return [None] * len(encoded)
        predictor, model = version
        dims = self._embedder.model.dims
        read = ModelInputs(
            apps=[each.request.app for each in encoded],
            features=np.stack([from_bytes(each.request.features) for each in encoded]),
            instructions=np.stack([unpack_vector(row, dims) for row in instructions]),
            instruction_of=np.arange(len(encoded)),
            text=np.stack([each.text for each in encoded]).astype(np.float32),
            sentences=np.stack([unpack_vector(row, dims) for row in inputs]),
            forms=form_codes([each.request.form for each in encoded]),
        )
        try:
            scored = model.predict(read)
        except Exception:  # the process would end, and its successor again
            log.exception("predictor_version_given_up", predictor=str(predictor))
            self._version = None
            return [None] * len(encoded)
        found = zip(scored.quantiles.tolist(), scored.mean.tolist(), strict=True)
        return [VersionScore(predictor, tuple(quantiles), mean) for quantiles, mean in found]
