"""One choice of a request between its arrival and its record."""

import asyncio
from collections.abc import Sequence as Many
from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from engine.protocol import Sequence, TokenLogprobs
from gateway.errors import ContextLengthExceeded, LmaasError
from gateway.generation.queue_position import QueuePosition
from gateway.generation.request import GenerationRequest, answer_limit
from gateway.generation.text.detokenizer import AnswerText
from gateway.generation.text.incremental_decoder import AnswerDecoder
from gateway.generation.text.logprobs import ScoredToken, Scorer
from gateway.generation.text.token_bytes import Speller
from gateway.prediction.messages import Prediction
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.requests import QueuedRequest, RunningSequence


class Piece(Struct, frozen=True):
    """What came of an answer: its text, and its tokens' scores where they were asked for."""

    text: str
    scored: list[ScoredToken] = []

    def __bool__(self) -> bool:
        return bool(self.text or self.scored)


class SchedulingTrace(Struct, frozen=True, kw_only=True):
    """How a request was scheduled, for its record; None where it has not happened.

    `queue_ahead` requests waited at its arrival, from when the expected times count in seconds.
    The rest is set at its dispatch: `order` is `arrival` where the policy had fallen back on that,
    `ratio` is its batch's response ratio, `passed_by` requests came later and left the queue
    before it, `kv_free_pages` were free.
    """

    queue_ahead: int | None = None
    expected_start_s: float | None = None
    expected_finish_s: float | None = None
    policy: str | None = None
    order: Literal["policy", "arrival"] | None = None
    batch: str | None = None
    batch_size: int | None = None
    ratio: float | None = None
    overdue: bool | None = None
    passed_by: int | None = None
    kv_free_pages: int | None = None


class RequestState:
    """A request that waits, runs or has just ended. Times in `_s` are of one monotonic clock.

    Tokens grow as the engine steps; a reader keeps its own place in them, so a slow client
    holds up nobody and costs no more memory than the answer. Of a request for several answers
    each `choice` is one of these; they have `grew` in common, for their one reader.
    """

    def __init__(
        self,
        *,
        request_id: UUID,
        ask: GenerationRequest,
        prompt: list[int],
        user_input_tokens: int,
        max_tokens: int,
        prediction: Prediction,
        decoder: AnswerDecoder,
        speller: Speller,
        arrived_at: datetime,
        arrived_s: float,
        choice: int = 0,
        grew: asyncio.Event | None = None,
    ) -> None:
        self.id = request_id
        self.ask = ask
        self.choice = choice
        self.prompt = prompt
        self.user_input_tokens = user_input_tokens
        self.max_tokens = max_tokens
        self.prediction = prediction
        self.arrived_at = arrived_at
        self.arrived_s = arrived_s

        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprobs] = []  # one for each token, where they were asked for
        self.text = AnswerText(decoder, ask.stops, placed=ask.sampling.logprobs is not None)
        self._scorer = Scorer(speller)
        self._scored = 0
        self.finish_reason: str | None = None
        self.error: LmaasError | None = None

        self.request: QueuedRequest | None = None  # as the policy sees it
        self.trace = SchedulingTrace()
        self.attempt = 0
        self.preemptions = 0
        self.dispatched_s: float | None = None
        self.first_token_s: float | None = None
        self.finished_s: float | None = None
        self._grew = grew or asyncio.Event()

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self.finish_reason is not None

    @property
    def sequence_id(self) -> str:
        """Its name in the engine; another for every time it is handed over anew."""
        return f"{self.id.hex}.{self.attempt}"

    def queued(self, position: QueuePosition) -> None:
        """It waits, at this place in the queue."""
        self.trace = replace(
            self.trace,
            queue_ahead=position.ahead,
            expected_start_s=position.expected_start_s,
            expected_finish_s=position.expected_finish_s,
        )

    def dispatched(
        self,
        dispatch: Dispatch,
        now_s: float,
        *,
        batch: str,
        policy: str,
        passed_by: int,
        kv_free_pages: int | None,
    ) -> None:
        """It starts, in this batch."""
        self.dispatched_s = now_s
        self.trace = replace(
            self.trace,
            policy=policy,
            order="arrival" if dispatch.reason == "arrival" else "policy",
            batch=batch,
            batch_size=len(dispatch.requests),
            ratio=dispatch.ratio,
            overdue=dispatch.overdue,
            passed_by=passed_by,
            kv_free_pages=kv_free_pages,
        )

    def waiting(self) -> QueuedRequest:
        """What the policy sees while it waits."""
        ask = self.ask
        self.request = QueuedRequest(
            id=self.id.hex,
            tenant=ask.caller.tenant_id.hex,
            prompt_tokens=len(self.prompt),
            quantiles=self.prediction.quantiles,
            max_tokens=self.max_tokens,
            arrived_s=self.arrived_s,
            share=ask.caller.share,
            urgency=ask.urgency,
            deadline_s=self._then(ask.deadline_s),
            start_by_s=self._then(ask.max_queue_s),
        )
        return self.request

    def _then(self, seconds: float | None) -> float | None:
        return None if seconds is None else self.arrived_s + seconds

    def running(self) -> RunningSequence:
        """What admission sees while it runs."""
        return RunningSequence(
            id=self.id.hex,
            prompt_tokens=len(self.prompt),
            generated=len(self.tokens),
            quantiles=self.prediction.quantiles,
            max_tokens=self.max_tokens,
        )

    def sequence(self, stop_ids: list[int], reserve: int) -> Sequence:
        """What the engine runs: from the prompt and whatever was generated before.

        `reserve` are the tokens of generation that memory is promised for.
        Its tenant's salt keeps the KV memory of its prefixes from other tenants.
        """
        return Sequence(
            id=self.sequence_id,
            prompt=self.prompt,
            generated=self.tokens.copy(),
            max_tokens=self.max_tokens,
            reserve=reserve,
            stop_ids=stop_ids,
            sampling=replace(self.ask.sampling, seed=self._seed),
            salt=self.ask.caller.tenant_id.hex,
        )

    @property
    def _seed(self) -> int:
        """Choices draw apart; unseeded ones have their own randomness, the same after a restart."""
        if self.ask.seed is None:
            return self.id.int & (2**63 - 1)
        return self.ask.seed + self.choice

    def bound(self, context_tokens: int) -> None:
        """Keep the answer within a context that has become smaller.

        ContextLengthExceeded where what was asked for does not fit any more.
        """
        try:
            room = answer_limit(
                len(self.prompt), self.ask.max_tokens, context_tokens, param=self.ask.param
            )
        except ContextLengthExceeded as error:
            raise ContextLengthExceeded(
                f"the engine's KV memory has become smaller: {error.message}", param=error.param
            ) from error
        self.max_tokens = min(self.max_tokens, room)

    def grow(self, tokens: list[int], now_s: float, logprobs: Many[TokenLogprobs] = ()) -> bool:
        """Take what one step generated; whether a stop string is complete with it.

        Tokens beyond the stop string are not taken: neither counted nor learned nor shown.
        """
        if self.first_token_s is None:
            self.first_token_s = now_s
        taken, stopped = self.text.grow(tokens)
        self.tokens.extend(tokens[:taken])
        self.logprobs.extend(logprobs[:taken])
        self._grew.set()
        return stopped

    def read(self, *, ended: bool) -> Piece:
        """What came since the last call; all of it once `ended`."""
        text = self.text.read(ended=ended)
        starts = self.text.starts(self._scored, ended=ended)
        if self.ask.sampling.logprobs is None or not starts:
            return Piece(text)
        span = slice(self._scored, self._scored + len(starts))
        self._scored = span.stop
        scored = self._scorer.score(self.tokens[span], self.logprobs[span], starts)
        return Piece(text, list(scored))

    def end(self, reason: str, now_s: float, error: LmaasError | None = None) -> None:
        """Nothing more comes."""
        self.finish_reason = reason
        self.error = error
        self.finished_s = now_s
        self._grew.set()

    async def growth(self) -> None:
        """Returns when there is something new since the last call; at once when done."""
        if not self.done:
            await self._grew.wait()
            self._grew.clear()

    async def ended(self) -> None:
        """Returns when nothing more will come."""
        while not self.done:
            await self.growth()
