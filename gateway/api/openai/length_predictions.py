"""`POST /v1/length-predictions`: predicts the length of the answer to a conversation."""

from typing import Any, Literal, Self
from uuid import UUID

from litestar import Controller, Request, Response, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from msgspec import Struct

from gateway.api.openai.chat_schema import ChatCompletionRequest
from gateway.api.openai.parameters import ignored_header
from gateway.api.openapi import errors
from gateway.generation.service import GenerationService, PreparedRequest
from gateway.tenancy.authentication import Caller


class QuantilesAnswer(Struct, frozen=True):
    """Quantiles of the answer's length in tokens, at 10, 25, 50, 75, 90 and 95 %."""

    p10: float
    p25: float
    p50: float
    p75: float
    p90: float
    p95: float


class LengthPredictionAnswer(Struct, frozen=True, kw_only=True):
    """The predicted length of each answer; `predicted_tokens` is the median, as in completions.

    `source` is `model`, the nearest history (`app`, `tenant`, `global`), or `prior`, the default
    without history.
    """

    object: Literal["length_prediction"] = "length_prediction"
    model: str
    predicted_tokens: int
    mean_tokens: float
    quantiles: QuantilesAnswer
    prompt_tokens: int
    max_tokens: int
    source: str
    predictor_id: UUID | None

    @classmethod
    def of(cls, prepared: PreparedRequest, model: str) -> Self:
        """The prediction as clients see it."""
        prediction = prepared.prediction
        return cls(
            model=model,
            predicted_tokens=round(prediction.median),
            mean_tokens=round(prediction.mean, 1),
            quantiles=QuantilesAnswer(*(round(tokens, 1) for tokens in prediction.quantiles)),
            prompt_tokens=len(prepared.prompt),
            max_tokens=prepared.max_tokens,
            source=prediction.source,
            predictor_id=prediction.predictor,
        )


class LengthPredictionsController(Controller):
    """Predicts lengths of answers without generating them."""

    path = "/length-predictions"

    @post(
        status_code=200,
        summary="Predict the length of an answer without generating it",
        responses=errors(404),
    )
    async def predict(
        self,
        data: JSONBody[ChatCompletionRequest],
        caller: NamedDependency[Caller],
        service: NamedDependency[GenerationService],
        request: Request[Any, Any, Any],
    ) -> Response[LengthPredictionAnswer]:
        """Quantiles of the answer's length for the body of a chat completion."""
        service.check_model(data.model)
        prepared = await service.prepare(data.to_request(caller))
        answer = LengthPredictionAnswer.of(prepared, service.model)
        return Response(answer, headers=ignored_header(request))
