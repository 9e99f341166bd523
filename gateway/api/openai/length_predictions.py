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
from gateway.quantiles import P90
from gateway.tenancy.authentication import Caller
from gateway.usage.estimate import CostEstimate, CostEstimates


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
    without history. `cost` is of all answers; null if no price is valid, or the database does not
    answer.
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
    cost: CostEstimate | None

    @classmethod
    def of(cls, prepared: PreparedRequest, model: str, cost: CostEstimate | None) -> Self:
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
            cost=cost,
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
        costs: NamedDependency[CostEstimates],
        request: Request[Any, Any, Any],
    ) -> Response[LengthPredictionAnswer]:
        """Quantiles of the answer's length, and its cost, for the body of a chat completion."""
        service.check_model(data.model)
        wanted = data.to_request(caller)
        prepared = await service.prepare(wanted)
        cost = await costs.estimate(
            service.model,
            wanted.recorded_tier,
            prompt_tokens=len(prepared.prompt),
            answers=wanted.choices,
            mean=prepared.prediction.mean,
            p90=prepared.prediction.quantiles[P90],
        )
        answer = LengthPredictionAnswer.of(prepared, service.model, cost)
        return Response(answer, headers=ignored_header(request))
