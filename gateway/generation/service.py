"""The generation service: takes checked requests and returns their growing answers."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Final
from uuid import UUID, uuid5

from msgspec import Struct, structs

from engine.protocol import EngineInfo, Grammar
from gateway.errors import (
    ContextLengthExceeded,
    EngineLost,
    HistoryFull,
    InvalidRequest,
    LimitReached,
    LmaasError,
    ModelNotFound,
    ShuttingDown,
    UnsupportedParameter,
    shortened,
)
from gateway.generation.grammar.calls import argument_grammars, call_grammar
from gateway.generation.grammar.checker import GrammarChecker
from gateway.generation.request import Ceiling, GenerationRequest, RecordKey, answer_limit
from gateway.generation.request_state import RequestState, predicted_tokens
from gateway.generation.scheduler import Scheduler
from gateway.generation.text.tokenizer import SPELLINGS, ChatTokenizer
from gateway.generation.text.workers import TextWorkers
from gateway.limits.request_hold import RequestHold
from gateway.prediction.messages import Prediction, PredictionRequest
from gateway.prediction.serving.drift import DriftMonitor
from gateway.prediction.serving.open_prediction import OpenPrediction
from gateway.prediction.serving.predictor import LengthPredictor
from gateway.scheduling.requests import QueuedRequest
from gateway.scheduling.waits.estimator import Outlook
from models.base import new_id

CHARACTER_US: Final = 1  # CPU time to encode a character: 0.3 to 1.6 µs, from words to noise
MESSAGE_US: Final = 16  # to render a message and to encode its markup
STARTED_AT_ONCE: Final = 8  # answers of a request: each takes up to 1 ms of the event loop
MAX_SUSPECTS: Final = 32  # functions that are compiled alone to find one that is at fault


class EncodedText(Struct, frozen=True):
    """Token ids of a prompt and of bad words, the number of tokens of the user input, and the
    grammar of the answers.
    """

    prompt: list[int]
    user_input_tokens: int
    bad_words: list[list[int]] = []
    grammar: Grammar | None = None


class PreparedRequest(Struct, frozen=True):
    """A request's tokens, the least and the most of each answer, and their predicted length."""

    encoded: EncodedText
    least_tokens: int
    max_tokens: int
    opened: OpenPrediction

    @property
    def prompt(self) -> list[int]:
        """The prompt's tokens."""
        return self.encoded.prompt

    @property
    def prediction(self) -> Prediction:
        """The newest prediction."""
        return self.opened.newest.at_least(self.least_tokens)


class GenerationService:
    """Serves one model: predicts lengths, queues requests, and returns growing answers."""

    def __init__(
        self,
        model: str,
        tokenizer: ChatTokenizer,
        predictor: LengthPredictor,
        scheduler: Scheduler,
        workers: TextWorkers,
    ) -> None:
        self.model = model
        self.scheduler = scheduler
        self.workers = workers
        scheduler.metrics.count_embeddings(predictor.counts.embeddings)
        scheduler.metrics.count_texts(workers.counts)
        self.started_at = int(time.time())
        self._tokenizer = tokenizer
        self._grammars = GrammarChecker(tokenizer.file)
        self._predictor = predictor
        self._stopped = False
        self.stopping = False  # requests are still accepted, but should go elsewhere

    @property
    def ready(self) -> bool:
        """Whether requests are accepted, can be recorded, and the engine takes them."""
        engine = self.scheduler.engine
        return engine.accepting and not self._stopped and not self.scheduler.history_full

    @property
    def fingerprint(self) -> str:
        """OpenAI's `system_fingerprint`: with the seed it identifies what an answer depends on."""
        return f"fp_{self._tokenizer.fingerprint[:12]}"

    @property
    def predictor_version(self) -> UUID | None:
        """The active version of the length predictor; None before the first training."""
        return self._predictor.active

    @property
    def unusable_version(self) -> UUID | None:
        """The version that should be in use and cannot be loaded; None without one."""
        return self._predictor.unusable

    @property
    def drift(self) -> DriftMonitor:
        """The quality of this gateway's newest predictions."""
        return self._predictor.drift

    def check_model(self, name: str) -> None:
        """ModelNotFound unless this is the served model."""
        if name != self.model:
            raise ModelNotFound(
                f"the model {shortened(name)!r} is not served here; served is {self.model!r}",
                param="model",
            )

    def check_instruction(self, instruction: str) -> None:
        """InvalidRequest if the model's chat template refuses this instruction of an app."""
        self._tokenizer.check_instruction(instruction)

    async def prepare(self, request: GenerationRequest) -> PreparedRequest:
        """Encode a request and predict the length of its answers, by the model if it answers in
        time. Errors as of `start`.
        """
        encoded, question = await self._read(request)
        opened = await self._predictor.predict_by_model(question)
        return _prepared(request, encoded, opened)

    def comment(self, state: RequestState) -> str | None:
        """The place of a waiting request, in words; None once it runs."""
        return self.scheduler.comment(state)

    def expected_of(self, request: GenerationRequest, prepared: PreparedRequest) -> Outlook | None:
        """When a request would start and end that were queued now; None while none starts."""
        caller = request.caller
        return self.scheduler.expected_of(
            QueuedRequest(
                id="",
                tenant=caller.tenant_id.hex,
                prompt_tokens=len(prepared.prompt),
                quantiles=prepared.prediction.quantiles,
                max_tokens=prepared.max_tokens,
                arrived_s=time.monotonic(),
                share=caller.share,
                urgency=request.urgency,
                app=caller.app_id.hex,
                user=request.end_user or "",
                app_share=caller.app_share,
            )
        )

    async def _read(self, request: GenerationRequest) -> tuple[EncodedText, PredictionRequest]:
        """Encode a request; returns the tokens, and what the predictor is asked."""
        info = self._usable_info(request)
        _check_ids(request, info)
        for name in request.parameters():
            _check_supported(name, name, info)
        encoded = await self._encode(request, info)
        _check_prompt(encoded.prompt, request, info)
        if encoded.grammar is not None:
            _check_supported(encoded.grammar.kind, _grammar_param(request), info)
            await self._check_grammar(request, encoded.grammar, info)
        limit = answer_limit(
            len(encoded.prompt),
            request.max_tokens,
            info.context_tokens,
            param=request.param,
            limit_param=request.limit_param,
        )
        least = request.sampling.min_tokens
        if least > limit:
            raise InvalidRequest(
                f"min_tokens is {least}; an answer to this prompt has at most {limit}",
                param="min_tokens",
            )
        return encoded, _question(request, encoded, limit)

    async def _check_grammar(
        self, request: GenerationRequest, grammar: Grammar, info: EngineInfo
    ) -> None:
        """Errors as of `GrammarChecker.check`, with the function that is at fault, if one is."""
        tenant, use = request.caller.tenant_id.hex, request.tools
        try:
            await self._grammars.check(tenant, grammar, info, param=_grammar_param(request))
        except InvalidRequest:
            parts = () if use is None else argument_grammars(use)
            for place, part in islice(parts, MAX_SUSPECTS):
                await self._grammars.check(tenant, part, info, param=place)
            raise

    async def start(
        self, request: GenerationRequest, grew: asyncio.Event | None = None
    ) -> list[RequestState]:
        """Queue a request; returns the state of each choice, to which tokens are added.

        `grew` wakes a reader of several requests.

        It is queued by what history says of its length; the model's prediction, whenever it comes,
        ranks it again. The only wait is for its text to be encoded, which is bounded by the queue
        of texts.

        ContextLengthExceeded or InvalidRequest if it can never run, Unavailable if not now or not
        by its deadline, TenantQueueFull or QueueFull if too much is queued or waits to be encoded,
        LimitReached if a hard limit refuses it, CeilingExceeded if its own bounds do.
        """
        now_s = time.monotonic()
        arrived_s = now_s if request.received_s is None else request.received_s
        arrived_at = datetime.now(UTC) - timedelta(seconds=now_s - arrived_s)
        self._check_accepting()
        tenant, load = request.caller.tenant_id.hex, self.scheduler.load
        # A digest: an appointment must not hold a text of any size.
        name = hash((request.caller.api_key_id, request.prompt, request.user_input))
        load.check(tenant, request.choices, request.choices, name)  # before its text costs anything
        encoded, question = await self._read(request)
        if self._stopped:
            raise ShuttingDown("the gateway is stopping; try again in a moment")
        opened = self._predictor.predict(question)
        prepared = _prepared(request, encoded, opened)
        tokens = predicted_tokens(prepared.prompt, prepared.prediction)
        load.check(tenant, request.choices, request.choices * tokens, name)
        load.appointments.keep(name)
        if request.ceiling is not None:
            await self._check_ceiling(request, request.ceiling, prepared)
        hold = await self._hold(request, prepared)
        self._check_running(hold)
        key = RecordKey(new_id(), arrived_at)
        states = await self._enqueue(request, prepared, key, arrived_s, hold, grew)
        if request.deadline_s is not None:
            await self._raise_if_shed(states, opened)
        return states

    async def start_line(
        self, request: GenerationRequest, prepared: PreparedRequest, key: RecordKey
    ) -> list[RequestState]:
        """Queue a prepared line of a batch job, whose runner bounds what is queued.

        ShuttingDown, DatabaseLost, HistoryFull; LimitReached if a hard limit refuses it now.

        History has its first choice under `key`, others under ids that follow from it.
        """
        self._check_accepting()
        hold = await self._take(request, prepared)
        self._check_running(hold)
        return await self._enqueue(request, prepared, key, time.monotonic(), hold)

    def _check_accepting(self) -> None:
        """ShuttingDown if the gateway stops, HistoryFull if requests could not be recorded."""
        if self._stopped:
            raise ShuttingDown("the gateway is stopping; try again in a moment")
        if self.scheduler.history_full:
            raise HistoryFull("too many records of requests wait for the database; try again later")

    def _check_running(self, hold: RequestHold) -> None:
        """ShuttingDown, and the hold is given up, if the gateway stops."""
        if self._stopped:
            self.scheduler.holds.release(hold)
            raise ShuttingDown("the gateway is stopping; try again in a moment")

    async def _check_ceiling(
        self, request: GenerationRequest, ceiling: Ceiling, prepared: PreparedRequest
    ) -> None:
        """CeilingExceeded by the model's prediction, or history's if the model's comes too late."""
        if prepared.opened.awaits_model:
            await self._predictor.await_model(prepared.opened)
        self.scheduler.holds.check_ceiling(
            request, ceiling, len(prepared.prompt), prepared.max_tokens, prepared.prediction
        )

    async def _hold(self, request: GenerationRequest, prepared: PreparedRequest) -> RequestHold:
        """Hold what the request may use of its limits. LimitReached.

        While the model's prediction is due, history's alone refuses nothing.
        """
        try:
            return await self._take(request, prepared)
        except LimitReached:
            if not prepared.opened.awaits_model:
                raise
        await self._predictor.await_model(prepared.opened)
        return await self._take(request, prepared)

    async def _take(self, request: GenerationRequest, prepared: PreparedRequest) -> RequestHold:
        return await self.scheduler.hold(
            request, len(prepared.prompt), prepared.max_tokens, prepared.prediction
        )

    async def _enqueue(
        self,
        request: GenerationRequest,
        prepared: PreparedRequest,
        key: RecordKey,
        arrived_s: float,
        hold: RequestHold,
        grew: asyncio.Event | None = None,
    ) -> list[RequestState]:
        """Queue all choices or none, `STARTED_AT_ONCE` of them in a turn of the event loop.

        ShuttingDown, or the error with which one ended before the last was queued.
        """
        blocks = self.scheduler.blocks(prepared.prompt, request.caller.tenant_id)
        grew = asyncio.Event() if grew is None else grew
        states: list[RequestState] = []
        try:
            for choice in range(request.choices):
                if choice and choice % STARTED_AT_ONCE == 0:
                    await self._let_others_run(states, request.choices - choice)
                state = self._state(request, prepared, key, arrived_s, hold, grew, blocks, choice)
                self.scheduler.enqueue(state)
                states.append(state)
                if choice == 0:
                    prepared.opened.follow(partial(self._revise, states))
        except BaseException:
            if states:
                self.scheduler.holds.abandon(hold, request.choices - len(states))
            else:
                self.scheduler.holds.release(hold)
            for state in states:
                self.cancel(state)
            raise
        return states

    async def _let_others_run(self, states: Sequence[RequestState], rest: int) -> None:
        """Wait for a turn of the event loop; the room in the queue for the `rest` is kept.

        ShuttingDown, or the error that one of the choices ended with.
        """
        first = states[0]
        kept = rest if first.lane == "interactive" else 0
        with self.scheduler.load.kept(first.tenant, kept, kept * first.predicted_tokens):
            await asyncio.sleep(0)
        if self._stopped:
            raise ShuttingDown("the gateway is stopping; try again in a moment")
        error = _first_error(states)
        if error is not None:
            raise error

    def _state(
        self,
        request: GenerationRequest,
        prepared: PreparedRequest,
        key: RecordKey,
        arrived_s: float,
        hold: RequestHold,
        grew: asyncio.Event,
        blocks: tuple[int, ...],
        choice: int,
    ) -> RequestState:
        continued = prepared.prompt if request.continues else ()
        use = request.tools
        return RequestState(
            request_id=key.id if choice == 0 else _choice_id(request, key, choice),
            request=request,
            choice=choice,
            first_id=key.id if choice else None,
            prompt=prepared.prompt,
            blocks=blocks,
            user_input_tokens=prepared.encoded.user_input_tokens,
            max_tokens=prepared.max_tokens,
            prediction=prepared.prediction,
            opened=prepared.opened,
            decoder=self._tokenizer.decoder(continued, calls=use is not None),
            speller=self._tokenizer.speller,
            arrived_at=key.arrived_at,
            arrived_s=arrived_s,
            grew=grew,
            hold=hold,
            bad_words=prepared.encoded.bad_words,
            grammar=prepared.encoded.grammar,
            calls=None if use is None else self._tokenizer.call_reader(use),
        )

    def _revise(self, states: list[RequestState], prediction: Prediction) -> None:
        """The model has predicted the length of these answers, or predicted it again."""
        first = states[0]
        if first.lane == "interactive":
            took_s = time.monotonic() - first.arrived_s
            self.scheduler.metrics.predicted(prediction.label, took_s)
        revised = prediction.at_least(first.least_tokens)
        for state in states:
            self.scheduler.revise(state, revised)

    async def _raise_if_shed(self, states: list[RequestState], opened: OpenPrediction) -> None:
        """Raise the error if the first decision shed the request, before a stream has begun.

        While it waits and the model's prediction is due, history's alone refuses no deadline.
        """
        await asyncio.sleep(0)
        if opened.awaits_model and any(state.dispatched_s is None for state in states):
            try:
                await self._predictor.await_model(opened)
            except asyncio.CancelledError:
                for state in states:
                    self.cancel(state)
                raise
            for state in states:
                self.scheduler.revise(state, opened.newest.at_least(state.least_tokens))
            await asyncio.sleep(0)
        error = _first_error(states)
        if error is not None:
            for state in states:
                self.cancel(state)
            raise error

    def cancel(self, state: RequestState) -> None:
        """Stop generating: the client disconnected. Does nothing if the choice has ended."""
        self.scheduler.cancel(state)

    def stop(self) -> None:
        """Accept no more requests and end the queued and running ones."""
        self._stopped = self.stopping = True
        self._grammars.close()
        self.scheduler.cancel_all(ShuttingDown("the gateway stopped before the answer was done"))

    async def _encode(self, request: GenerationRequest, info: EngineInfo) -> EncodedText:
        """The text's tokens. Errors as of `TextWorkers.run`.

        ContextLengthExceeded, without encoding, if the text exceeds the context even in the longest
        tokens of the vocabulary.
        """
        size, limit = request.characters, info.context_tokens * self._tokenizer.longest_token
        if size > limit:
            raise ContextLengthExceeded(
                f"the model's context is {info.context_tokens} tokens; {size} characters exceed it",
                param=request.param,
            )
        words = request.bad_words
        characters = size + len(request.user_input) + SPELLINGS * sum(map(len, words))
        pieces = len(request.messages) + SPELLINGS * len(words)
        return await self.workers.run(
            request.caller.tenant_id.hex,
            CHARACTER_US * characters + MESSAGE_US * pieces,
            partial(_encoded, self._tokenizer, request, info.context_tokens, limit),
        )

    def _usable_info(self, request: GenerationRequest) -> EngineInfo:
        """The engine's description, with the context of where the request's memory may be.

        InvalidRequest if the engine has no such memory, unless it is what the app has for all of
        its requests: the device's then. EngineLost as of `_engine_info`.
        """
        info, memory = self._engine_info(), request.memory
        if memory == "device":
            return info
        refusal = info.offload_refusals.get(memory)
        if refusal is None and self.scheduler.engine.mode == "lockstep":
            refusal = "in lock step nothing runs in host memory; an operator chose that policy"
        if refusal is not None and memory == request.caller.memory:
            return info
        if refusal is not None:
            raise InvalidRequest(f"memory {memory!r} is not served here: {refusal}", param="memory")
        context_tokens = max(info.context_tokens, info.offload_context_tokens)
        return structs.replace(info, context_tokens=context_tokens)

    def _engine_info(self) -> EngineInfo:
        """The engine's description. EngineLost before the first engine or in a long outage.

        In a short outage requests wait in the queue.
        """
        engine = self.scheduler.engine
        if engine.info is None:
            raise EngineLost("the engine is still loading its model; try again in a moment")
        if engine.given_up(time.monotonic()):
            raise EngineLost("the engine does not answer; try again in a moment")
        return engine.info


def _first_error(states: Sequence[RequestState]) -> LmaasError | None:
    """The first error that a choice has ended with."""
    return next((state.error for state in states if state.error), None)


def _choice_id(request: GenerationRequest, key: RecordKey, choice: int) -> UUID:
    """The id of a choice after the first."""
    return uuid5(key.id, str(choice)) if request.lane == "batch" else new_id()


def _encoded(
    tokenizer: ChatTokenizer, request: GenerationRequest, context_tokens: int, limit: int
) -> EncodedText:
    """The tokens of prompt, bad words and user input; `limit` is in characters."""
    options = request.prompt_options
    if isinstance(request.prompt, tuple):
        prompt = list(request.prompt)
    elif isinstance(request.prompt, str):
        prompt = tokenizer.encode_prompt(request.prompt, context_tokens)
    else:
        prompt = tokenizer.encode_chat(
            request.conversation(),
            options,
            () if request.tools is None else request.tools.functions,
            registered=request.registered,
            max_characters=limit,
            context_tokens=context_tokens,
        )
    prompt = options.truncated(prompt, context_tokens - (request.max_tokens or 1))
    words = [ids for word in request.bad_words for ids in tokenizer.encode_bad_word(word)]
    grammar = request.grammar
    if request.tools is not None:
        grammar = call_grammar(
            tokenizer.tool_form,
            request.tools,
            grammar,
            tokenizer.mark_ids,
            param=request.grammar_param,
        )
    return EncodedText(prompt, tokenizer.count(request.user_input), words, grammar)


def _prepared(
    request: GenerationRequest, encoded: EncodedText, opened: OpenPrediction
) -> PreparedRequest:
    limit = opened.request.max_tokens
    return PreparedRequest(encoded, request.least_tokens(limit), limit, opened)


def _check_prompt(prompt: list[int], request: GenerationRequest, info: EngineInfo) -> None:
    """InvalidRequest if the prompt is empty or has ids unknown to the model."""
    if not prompt:
        raise InvalidRequest(
            "the prompt is empty; at least one token is needed", param=request.param
        )
    if max(prompt) >= info.vocabulary:
        raise InvalidRequest(
            f"token id {max(prompt)} is unknown to this model; its ids are 0 to "
            f"{info.vocabulary - 1}",
            param="prompt",
        )


def _question(request: GenerationRequest, encoded: EncodedText, limit: int) -> PredictionRequest:
    return PredictionRequest(
        tenant=request.caller.tenant_id,
        app=request.caller.app_id,
        end_user=request.end_user,
        instruction=request.instruction,
        user_input=request.user_input,
        user_input_tokens=encoded.user_input_tokens,
        prompt_tokens=len(encoded.prompt),
        max_tokens=limit,
        temperature=request.sampling.temperature,
        top_p=request.sampling.top_p,
        batch=request.lane == "batch",
        form=request.form,
    )


def _grammar_param(request: GenerationRequest) -> str:
    """The API parameter that sets the grammar of the answers."""
    use = request.tools
    return use.param if use and not request.grammar else request.grammar_param


def _check_supported(name: str, param: str, info: EngineInfo) -> None:
    """UnsupportedParameter if the engine cannot do what a parameter asks for."""
    reason = info.refusals.get(name)
    if reason is not None:
        raise UnsupportedParameter(f"{param} is not supported here: {reason}", param=param)


def _check_ids(request: GenerationRequest, info: EngineInfo) -> None:
    """InvalidRequest if the request names a token id unknown to the model."""
    named = {
        "logit_bias": request.sampling.logit_bias,
        "allowed_token_ids": request.sampling.allowed,
        "stop_token_ids": request.stops.token_ids,
    }
    for param, ids in named.items():
        unknown = [token for token in ids if token >= info.vocabulary]
        if unknown:
            raise InvalidRequest(
                f"{param} names token id {unknown[0]}; accepted are this model's, 0 to "
                f"{info.vocabulary - 1}",
                param=param,
            )
