"""`POST /v1/length-predictions`: predicts lengths, waits and ends of answers."""

import asyncio
from typing import Any, Final, Literal, Self
from uuid import UUID

from litestar import Controller, Request, Response, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from msgspec import Struct

from gateway.api.openai.chat_schema import ChatCompletionRequest
from gateway.api.openai.completion_schema import CompletionRequest
from gateway.api.openai.parameters import ignored_header
from gateway.api.openai.timeouts import ClientTimeouts
from gateway.api.openapi import WireBody, errors
from gateway.api.usage.request_status import BandAnswer
from gateway.api.validation import convert_strictly
from gateway.errors import InvalidRequest, LmaasError, shortened
from gateway.generation.request import GenerationRequest
from gateway.generation.service import GenerationService, PreparedRequest
from gateway.quantiles import P90
from gateway.scheduling.waits.estimator import Outlook
from gateway.tenancy.authentication import Caller
from gateway.usage.estimate import CostEstimate, CostEstimates

MAX_BODIES: Final = 32  # of a call
AT_ONCE: Final = 8


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

    `expected_start_s` and `expected_finish_s` are those of a request that would arrive now, null
    while the engine takes none; `deadline_met` is `likely` if the finish's 0.9 quantile is before
    the deadline of the header or the metadata, `unlikely` if its 0.1 quantile is after it, else
    `uncertain`; null without a deadline. `source` is `model`, the nearest history (`app`, `tenant`,
    `global`), or `prior`, the default without history. `cost` is of all answers; null if no price
    is valid, or the database does not answer.
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
    expected_start_s: BandAnswer | None
    expected_finish_s: BandAnswer | None
    deadline_met: Literal["likely", "uncertain", "unlikely"] | None

    @classmethod
    def of(
        cls,
        prepared: PreparedRequest,
        model: str,
        cost: CostEstimate | None,
        outlook: Outlook | None,
        deadline_s: float | None,
    ) -> Self:
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
            expected_start_s=BandAnswer.of(outlook.start if outlook else None),
            expected_finish_s=BandAnswer.of(outlook.finish if outlook else None),
            deadline_met=_met(outlook, deadline_s),
        )


class LengthPredictionList(Struct, frozen=True, kw_only=True):
    """The predictions for several requests, in their order."""

    object: Literal["list"] = "list"
    data: list[LengthPredictionAnswer]


class PredictedBodies(WireBody, kw_only=True):
    """The body of a chat or of a text completion, or up to 32 of them as `requests`."""

    bodies: list[Any]
    several: bool = False

    @classmethod
    def screen(cls, body: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Each body as its own route reads it; errors name the place in `requests`."""
        if "requests" not in body:
            read, ignored = _read(body)
            return {"bodies": [read]}, ignored
        return {"bodies": _read_all(body), "several": True}, []

    @classmethod
    def wire_schema(cls) -> dict[str, Any]:
        """The schema of what is sent, for the OpenAPI document."""
        return {"title": cls.__name__, "description": cls.__doc__, "anyOf": [*_ONE, _SEVERAL]}


_ONE: Final = [
    {"$ref": f"#/components/schemas/{kind.__name__}"}
    for kind in (ChatCompletionRequest, CompletionRequest)
]
_SEVERAL: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["requests"],
    "additionalProperties": False,
    "properties": {
        "requests": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_BODIES,
            "items": {"anyOf": _ONE},
        }
    },
}


def _read(body: dict[str, Any]) -> tuple[ChatCompletionRequest | CompletionRequest, list[str]]:
    """A body of either route; with a prompt and no messages it is a text completion's."""
    kind = CompletionRequest if "prompt" in body and "messages" not in body else None
    fields, ignored = (kind or ChatCompletionRequest).screen(body)
    return convert_strictly(fields, kind or ChatCompletionRequest), ignored


def _read_all(body: dict[str, Any]) -> list[ChatCompletionRequest | CompletionRequest]:
    given = body["requests"]
    if len(body) > 1:
        raise InvalidRequest(
            f"next to requests there is {shortened(next(k for k in body if k != 'requests'))!r}; "
            "each of the requests has all its fields",
            param="requests",
        )
    fits = isinstance(given, list) and 1 <= len(given) <= MAX_BODIES
    if not fits or not all(isinstance(each, dict) for each in given):
        raise InvalidRequest(
            f"requests: accepted is a list of 1 to {MAX_BODIES} bodies of completions",
            param="requests",
        )
    found = []
    for number, each in enumerate(given):
        try:
            found.append(_read(each)[0])
        except LmaasError as error:
            raise _placed(error, number) from error
    return found


def _placed(error: LmaasError, number: int) -> LmaasError:
    """The same error, of one of `requests`."""
    place = f"requests[{number}]"
    param = f"{place}.{error.param}" if error.param else place
    return type(error)(f"{place}: {error.message}", param=param)


def _met(
    outlook: Outlook | None, deadline_s: float | None
) -> Literal["likely", "uncertain", "unlikely"] | None:
    if outlook is None or deadline_s is None:
        return None
    if outlook.finish.p90 <= deadline_s:
        return "likely"
    return "unlikely" if outlook.finish.p10 > deadline_s else "uncertain"


class LengthPredictionsController(Controller):
    """Predicts lengths of answers without generating them."""

    path = "/length-predictions"

    @post(
        status_code=200,
        summary="Predict the length, wait and end of answers without generating them",
        responses=errors(404),
    )
    async def predict(
        self,
        data: JSONBody[PredictedBodies],
        caller: NamedDependency[Caller],
        timeouts: NamedDependency[ClientTimeouts],
        service: NamedDependency[GenerationService],
        costs: NamedDependency[CostEstimates],
        request: Request[Any, Any, Any],
    ) -> Response[LengthPredictionAnswer | LengthPredictionList]:
        """Quantiles of the answer's length, its cost, and when it would start and end.

        For the body of a chat or text completion, or for several bodies in one call: a list then,
        as for a text completion of several prompts.
        """
        wanted = [
            each for body in data.bodies for each in _requests(body, caller, timeouts, service)
        ]
        if len(wanted) > MAX_BODIES:
            raise InvalidRequest(
                f"{len(wanted)} prompts in all; at most {MAX_BODIES} are accepted",
                param="requests" if data.several else "prompt",
            )
        answers: list[LengthPredictionAnswer] = []
        for begin in range(0, len(wanted), AT_ONCE):
            some = (_predict(each, service, costs) for each in wanted[begin : begin + AT_ONCE])
            answers += await asyncio.gather(*some)
        single = len(answers) == 1 and not data.several
        answer = answers[0] if single else LengthPredictionList(data=answers)
        return Response(answer, headers=ignored_header(request))


def _requests(
    body: ChatCompletionRequest | CompletionRequest,
    caller: Caller,
    timeouts: ClientTimeouts,
    service: GenerationService,
) -> list[GenerationRequest]:
    service.check_model(body.model)
    own = timeouts.with_metadata(body.metadata)
    if isinstance(body, ChatCompletionRequest):
        return [body.to_request(caller, own)]
    return body.to_requests(caller, own)


async def _predict(
    wanted: GenerationRequest, service: GenerationService, costs: CostEstimates
) -> LengthPredictionAnswer:
    prepared = await service.prepare(wanted)
    cost = await costs.estimate(
        service.model,
        wanted.recorded_tier,
        prompt_tokens=len(prepared.prompt),
        answers=wanted.choices,
        mean=prepared.prediction.mean,
        p90=prepared.prediction.quantiles[P90],
    )
    outlook = service.expected_of(wanted, prepared)
    return LengthPredictionAnswer.of(prepared, service.model, cost, outlook, wanted.deadline_s)
