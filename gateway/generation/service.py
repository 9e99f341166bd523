"""Generations: from a checked request to a running answer, and its record at the end."""

import asyncio
import time
from datetime import UTC, datetime
from functools import partial
from typing import Final
from uuid import UUID

from msgspec import Struct

from engine.protocol import EngineInfo
from gateway.errors import (
    ContextLengthExceeded,
    EngineLost,
    InvalidRequest,
    ModelNotFound,
    ShuttingDown,
)
from gateway.generation.engine_events import OUTAGE_S
from gateway.generation.request import GenerationRequest, answer_limit
from gateway.generation.request_state import RequestState
from gateway.generation.scheduler import Scheduler
from gateway.generation.text.tokenizer import ChatTokenizer
from gateway.prediction.messages import Prediction, PredictionRequest
from gateway.prediction.serving.drift import DriftMonitor
from gateway.prediction.serving.predictor import LengthPredictor
from models.base import new_id

LONG_TEXT: Final = 16_384  # characters


class PreparedRequest(Struct, frozen=True):
    """What is known of a request before it runs; an answer has at most `max_tokens`."""

    prompt: list[int]
    user_input_tokens: int
    max_tokens: int
    prediction: Prediction


class GenerationService:
    """Serves one model: predicts, queues, and returns answers as they grow."""

    def __init__(
        self,
        model: str,
        tokenizer: ChatTokenizer,
        predictor: LengthPredictor,
        scheduler: Scheduler,
    ) -> None:
        self.model = model
        self.scheduler = scheduler
        scheduler.metrics.count_predictions(predictor.counts.by_source)
        self.started_at = int(time.time())
        self._tokenizer = tokenizer
        self._predictor = predictor
        self._stopping = False

    @property
    def ready(self) -> bool:
        """Whether a request would be taken now and find an engine that may run it."""
        return self.scheduler.engine.accepting and not self._stopping

    @property
    def fingerprint(self) -> str:
        """OpenAI's `system_fingerprint`: what, beside the seed, an answer depends on."""
        return f"fp_{self._tokenizer.fingerprint[:12]}"

    @property
    def predicting(self) -> bool:
        """Whether the predictor process answers; without it predictions come from history."""
        return self._predictor.connected

    @property
    def predictor_version(self) -> UUID | None:
        """The active version of the length predictor; None before the first training."""
        return self._predictor.active

    @property
    def drift(self) -> DriftMonitor:
        """How good this gateway's newest predictions were."""
        return self._predictor.drift

    def check_model(self, name: str) -> None:
        """ModelNotFound unless this is the served model."""
        if name != self.model:
            raise ModelNotFound(
                f"the model {name!r} is not served here; served is {self.model!r}", param="model"
            )

    async def prepare(self, ask: GenerationRequest) -> PreparedRequest:
        """How long each answer to a request would be. Errors as of `start`."""
        info = self._engine_info()
        _check_bias(ask, info)
        prompt = await self._prompt(ask, info)
        limit = answer_limit(len(prompt), ask.max_tokens, info.context_tokens, param=ask.param)
        question = self._question(ask, len(prompt), limit)
        prediction = await self._predictor.predict(question)
        return PreparedRequest(prompt, question.user_input_tokens, limit, prediction)

    async def start(self, ask: GenerationRequest) -> list[RequestState]:
        """Predict and queue a request; its tokens grow in what is returned, one for each choice.

        ContextLengthExceeded or InvalidRequest where it can never run, Unavailable where not now or
        not by its deadline.
        """
        arrived_at, arrived_s = datetime.now(UTC), time.monotonic()
        if self._stopping:
            raise ShuttingDown("the gateway is stopping; ask again in a moment")
        foreseen = await self.prepare(ask)
        if self._stopping:
            raise ShuttingDown("the gateway is stopping; ask again in a moment")
        grew = asyncio.Event()
        lives = [
            RequestState(
                request_id=new_id(),
                ask=ask,
                choice=choice,
                prompt=foreseen.prompt,
                user_input_tokens=foreseen.user_input_tokens,
                max_tokens=foreseen.max_tokens,
                prediction=foreseen.prediction,
                decoder=self._tokenizer.decoder(),
                speller=self._tokenizer.speller,
                arrived_at=arrived_at,
                arrived_s=arrived_s,
                grew=grew,
            )
            for choice in range(ask.choices)
        ]
        for live in lives:
            self.scheduler.enqueue(live)
        if ask.deadline_s is not None:
            await self._refuse_hopeless(lives)
        return lives

    async def _refuse_hopeless(self, lives: list[RequestState]) -> None:
        """Raise what the first decision gave a request up for, before a stream has begun."""
        await asyncio.sleep(0)
        error = next((live.error for live in lives if live.error), None)
        if error is not None:
            for live in lives:
                self.cancel(live)
            raise error

    def cancel(self, live: RequestState) -> None:
        """The client went away: stop generating. Nothing happens where it has ended."""
        self.scheduler.cancel(live)

    def stop(self) -> None:
        """Take no more requests and end those that run."""
        self._stopping = True
        self.scheduler.cancel_all(ShuttingDown("the gateway stopped before the answer was done"))

    async def _prompt(self, ask: GenerationRequest, info: EngineInfo) -> list[int]:
        """The prompt's token ids. InvalidRequest for one that is empty or not of this model."""
        if isinstance(ask.prompt, tuple):
            prompt = list(ask.prompt)
        else:
            prompt = await self._encode(ask, info)
        if not prompt:
            raise InvalidRequest(
                "the prompt is empty; at least one token is needed", param=ask.param
            )
        if max(prompt) >= info.vocabulary:
            raise InvalidRequest(
                f"token id {max(prompt)} is not of this model, whose ids end at "
                f"{info.vocabulary - 1}",
                param="prompt",
            )
        return prompt

    async def _encode(self, ask: GenerationRequest, info: EngineInfo) -> list[int]:
        """Encode on the event loop what is short, in a thread what is long, never what is hopeless.

        ContextLengthExceeded where even the longest tokens could not take all this text.
        """
        size = ask.characters
        if size > info.context_tokens * self._tokenizer.longest_token:
            raise ContextLengthExceeded(
                f"the model's context is {info.context_tokens} tokens; {size} characters are more",
                param=ask.param,
            )
        if isinstance(ask.prompt, str):
            encode = partial(self._tokenizer.encode_prompt, ask.prompt)
        else:
            encode = partial(self._tokenizer.encode_chat, ask.conversation())
        return encode() if size < LONG_TEXT else await asyncio.to_thread(encode)

    def _engine_info(self) -> EngineInfo:
        """The engine's bounds. A short loss is waited out in the queue, a long one refused."""
        engine = self.scheduler.engine
        if engine.info is None:
            raise EngineLost("the engine is still loading its model; ask again in a moment")
        if engine.lost_at_s is not None and time.monotonic() - engine.lost_at_s > OUTAGE_S:
            raise EngineLost("the engine does not answer; ask again in a moment")
        return engine.info

    def _question(
        self, ask: GenerationRequest, prompt_tokens: int, limit: int
    ) -> PredictionRequest:
        return PredictionRequest(
            tenant=ask.caller.tenant_id,
            app=ask.caller.app_id,
            end_user=ask.end_user,
            instruction=ask.instruction,
            user_input=ask.user_input,
            user_input_tokens=len(self._tokenizer.encode(ask.user_input)),
            prompt_tokens=prompt_tokens,
            max_tokens=limit,
            temperature=ask.sampling.temperature,
            top_p=ask.sampling.top_p,
        )


def _check_bias(ask: GenerationRequest, info: EngineInfo) -> None:
    """InvalidRequest for a bias of what is no token of this model."""
    strangers = [token for token in ask.sampling.logit_bias if token >= info.vocabulary]
    if strangers:
        raise InvalidRequest(
            f"logit_bias names token id {strangers[0]}; accepted are this model's, 0 to "
            f"{info.vocabulary - 1}",
            param="logit_bias",
        )
