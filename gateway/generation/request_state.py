"""The state of one choice of a request, from its arrival to its record."""

import asyncio
from collections.abc import Iterator
from collections.abc import Sequence as Many
from datetime import datetime
from math import ceil, inf
from typing import Literal, TypeAlias
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from engine.protocol import Grammar, KvPlacement, Sequence, TokenLogprobs
from gateway.errors import ContextLengthExceeded, LmaasError
from gateway.generation.queue.position import QueuePosition
from gateway.generation.request import GenerationRequest, answer_limit
from gateway.generation.text.growing_answer import GrowingAnswer, Piece
from gateway.generation.text.incremental_decoder import AnswerDecoder
from gateway.generation.text.token_bytes import Speller
from gateway.generation.tools.call_reader import CallReader
from gateway.limits.limit import Limit
from gateway.limits.request_hold import RequestHold
from gateway.prediction.messages import Prediction
from gateway.prediction.serving.open_prediction import OpenPrediction
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.requests import Lane, QueuedRequest, RunningSequence, SharedPrefix
from models.base import new_id

HostReason: TypeAlias = Literal["does_not_fit", "would_preempt"]
"""Why keys and values are in host memory: the device can never hold them, or admission chose it."""


class SchedulingTrace(Struct, frozen=True, kw_only=True):
    """How a request was scheduled, for its record; None if it has not happened.

    Set at arrival: `queue_ahead` requests waited; the expected times are seconds from then, and
    `expected_finish_s` follows the prediction until the request starts.
    Set at dispatch: `order` is `arrival` if the policy had fallen back to order of arrival, `ratio`
    is the batch's response ratio, `passed_by` requests arrived later and left the queue earlier,
    `kv_free_pages` KV pages were free, `prediction` is the source of the prediction it went by,
    which may have been revised since. If its batch was split, they stay those of its first start,
    but `batch` and `batch_size` are those of the half.
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
    prediction: str | None = None


def predicted_tokens(prompt: list[int], prediction: Prediction) -> int:
    """The tokens of a prompt and of its predicted answer, the median."""
    return len(prompt) + ceil(prediction.median)


class RequestState:
    """A choice of a request that is queued, runs or has just ended. `_s` times: monotonic clock.

    The engine's steps append tokens and one reader reads them at its own pace, so a slow client
    delays no other and costs no more memory than its answer. The choices of one request share the
    event `grew`, which wakes their reader.
    """

    def __init__(
        self,
        *,
        request_id: UUID,
        request: GenerationRequest,
        prompt: list[int],
        user_input_tokens: int,
        max_tokens: int,
        prediction: Prediction,
        decoder: AnswerDecoder,
        speller: Speller,
        arrived_at: datetime,
        arrived_s: float,
        opened: OpenPrediction | None = None,
        blocks: tuple[int, ...] = (),
        choice: int = 0,
        first_id: UUID | None = None,
        grew: asyncio.Event | None = None,
        hold: RequestHold | None = None,
        bad_words: Many[list[int]] = (),
        grammar: Grammar | None = None,
        calls: CallReader | None = None,
    ) -> None:
        self.id = request_id
        self.request = request
        self.choice = choice
        self.first_id = first_id  # of the request's first choice; None for that itself
        self.prompt = prompt
        self.blocks = blocks  # hashes of it, see `routing.prefixes`; empty with one engine
        self.user_input_tokens = user_input_tokens
        self.max_tokens = max_tokens
        self.prediction = prediction  # the newest that the scheduler has taken up
        self.opened = opened
        self.arrived_at = arrived_at
        self.arrived_s = arrived_s

        self.bad_words = list(bad_words)
        self.grammar = grammar
        self.calls = calls  # separates tool calls from content; None if there can be none

        self.answer = GrowingAnswer(
            decoder,
            speller,
            request.stops.strings,
            scored=request.logprobs is not None,
            min_tokens=request.sampling.min_tokens,
            stop_shown=request.stops.shown,
        )
        self.tokens = self.answer.tokens
        self.delivered_tokens = 0  # of a streamed answer: read by what sends it
        self.hold = hold  # shared with the request's other choices
        # Tokens of the answer that its limits cover so far; None if no limit concerns it.
        self.covered_tokens = hold.answer_tokens if hold is not None and hold.bounded else None
        self.ended_by: Limit | None = None  # the budget that ended the answer
        self.finish_reason: str | None = None
        self.released = False  # its reader may see the end
        self.stop_id: int | None = None  # of the request's `stops`, if one ended the answer
        self.error: LmaasError | None = None

        self.memory: KvPlacement = "device"  # where it is or will be, as known now
        self.host_reason: HostReason | None = None  # why `memory` is not the device
        self.engine: int | None = None  # the number of the engine that has it
        self.prefix: SharedPrefix | None = None  # set at arrival, see `PrefixPins`
        self.queued_request: QueuedRequest | None = None  # set while queued
        self.trace = SchedulingTrace()
        self.expected_band_s: tuple[float, float] | None = None  # of its start, while it waits
        self.queued_step = 0  # steps of the engine when it was queued
        # A job's line keeps its id when it runs again, and an engine runs no sequence twice.
        self._run = (
            f"{request_id.hex}.{new_id().hex}" if request.lane == "batch" else request_id.hex
        )
        self.attempt = 0
        self.losses = 0  # of its engine, in a row without a token in between
        self._tokens_at_loss = 0
        self.cached_tokens: int | None = None  # of the prompt, not computed; None: not known
        self.preemptions = 0
        self.preempt_first = 0  # as the engine knows it
        self.suspended = False  # preempted and not resumed
        self.suspended_at_s: float | None = None
        self.preempted_s = 0.0  # before it was resumed last
        self.queued_again = False  # it waits to go on: its lock-step batch ran out of memory
        self.dispatched_s: float | None = None
        self.first_token_s: float | None = None
        self.grew_s = 0.0  # when its last tokens came
        self.grew_tokens = 0  # how many came then
        self.finished_s: float | None = None
        self._grew = grew or asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether the choice has ended."""
        return self.finish_reason is not None

    @property
    def done(self) -> bool:
        """Whether the choice has ended and its reader may see it: its record is kept."""
        return self.ended and self.released

    @property
    def stop_reason(self) -> int | str | None:
        """The stop string or token id of the request that ended the answer; None if none did."""
        return self.answer.stop_string if self.stop_id is None else self.stop_id

    @property
    def least_tokens(self) -> int:
        """The tokens that the answer has at least, if it is not cut off."""
        return self.request.least_tokens(self.max_tokens)

    @property
    def forced(self) -> bool:
        """Whether the request's parameters forced the length: it says nothing of the text.

        The model's own end was ignored, or came as soon as `min_tokens` allowed it: it may have
        been due long before.
        """
        least = self.request.sampling.min_tokens
        return self.request.stops.ignore_eos or 0 < least >= len(self.tokens)

    @property
    def mean_logprob(self) -> float:
        """Mean log probability of the answer's tokens; lower than any other without tokens."""
        scored = self.answer.logprobs
        return sum(each.logprob for each in scored) / len(scored) if scored else -inf

    @property
    def limited_by(self) -> str | None:
        """The level and kind of the limit that ended the answer; None if none did."""
        limit = self.ended_by
        return None if limit is None else f"{limit.level} {limit.kind}"

    @property
    def tenant(self) -> str:
        """Its tenant, as the policy knows it."""
        return self.request.caller.tenant_id.hex

    @property
    def lane(self) -> Lane:
        """Its lane: that of batch jobs, or the interactive one."""
        return self.request.lane

    @property
    def on_host(self) -> bool:
        """Whether its keys and values are, or will be, in host memory."""
        return self.memory != "device"

    @property
    def in_order(self) -> bool:
        """Whether the policy orders it: lines of jobs and requests in host memory it does not."""
        return self.lane == "interactive" and not self.on_host

    @property
    def predicted_tokens(self) -> int:
        """The tokens of its prompt and of its predicted answer."""
        return predicted_tokens(self.prompt, self.prediction)

    @property
    def sequence_id(self) -> str:
        """Its id in the engine; every submission to an engine has a new one."""
        return f"{self._run}.{self.attempt}"

    @property
    def undecided(self) -> bool:
        """Whether it is not known yet where its keys and values will be."""
        may_move = self.request.memory != "device" and not self.on_host
        return may_move and self.dispatched_s is None and not self.ended

    def place_on_host(self, reason: HostReason) -> None:
        """Note that its keys and values are, or will be, where the request wants them."""
        self.memory, self.host_reason = self.request.memory, reason

    def return_to_device(self) -> None:
        """Note that it goes on on the device."""
        self.memory, self.host_reason = "device", None

    def set_queued(self, position: QueuePosition) -> None:
        """Note its queue position at arrival."""
        self.trace = replace(
            self.trace,
            queue_ahead=position.ahead,
            expected_start_s=position.expected_start_s,
            expected_finish_s=position.expected_finish_s,
        )

    def expect(self, start_s: float, band_s: tuple[float, float] | None = None) -> None:
        """Note when it is expected to start, in seconds from its arrival, and the band."""
        self.expected_band_s = band_s
        self.trace = replace(self.trace, expected_start_s=start_s)

    def expect_finish(self, seconds: float | None) -> None:
        """Note when it is expected to end, in seconds from its arrival."""
        self.trace = replace(self.trace, expected_finish_s=seconds)

    def set_dispatched(
        self,
        dispatch: Dispatch,
        now_s: float,
        *,
        batch: str,
        policy: str,
        passed_by: int | None,
        kv_free_pages: int | None,
    ) -> None:
        """Note its start in this batch."""
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
            prediction=self.prediction.label,
        )

    def lose_engine(self) -> None:
        """Note that the engine that had it was lost."""
        grew = len(self.tokens) > self._tokens_at_loss
        self.losses = 1 if grew else self.losses + 1
        self._tokens_at_loss = len(self.tokens)
        self.engine = None

    def set_queued_again(self) -> None:
        """Note that it left the engine unfinished and is queued to go on."""
        self.queued_again = True
        self.attempt += 1

    def set_continued(self, batch: str, size: int) -> None:
        """Note that it goes on in this batch."""
        self.queued_again = False
        self.trace = replace(self.trace, batch=batch, batch_size=size)

    def to_queued(self) -> QueuedRequest:
        """The request as the policy queues it; one that has started has no deadline to start by."""
        request, started = self.request, self.dispatched_s is not None
        self.queued_request = QueuedRequest(
            id=self.id.hex,
            tenant=self.tenant,
            prompt_tokens=len(self.prompt),
            quantiles=self.prediction.quantiles,
            max_tokens=self.max_tokens,
            arrived_s=self.arrived_s,
            share=request.caller.share,
            urgency=request.urgency * (self.hold.waiting_weight if self.hold else 1.0),
            surcharge=self.hold.surcharge if self.hold else 1.0,
            app=request.caller.app_id.hex,
            user=request.end_user or "",
            app_share=request.caller.app_share,
            deadline_s=None if started else self._deadline(request.deadline_s),
            start_by_s=None if started else self._deadline(request.max_queue_s),
            generated=len(self.tokens),
            lane=request.lane,
            prefix=self.prefix,
            provisional=self.opened is not None and self.opened.awaits_model,
            blocks=self.blocks,
            host=None if request.memory == "device" else request.memory,
        )
        return self.queued_request

    def _deadline(self, seconds: float | None) -> float | None:
        return None if seconds is None else self.arrived_s + seconds

    def to_running(self) -> RunningSequence:
        """The running sequence as admission sees it."""
        return RunningSequence(
            id=self.id.hex,
            prompt_tokens=len(self.prompt),
            generated=len(self.tokens),
            quantiles=self.prediction.quantiles,
            max_tokens=self.max_tokens,
            tenant=self.tenant,
            share=self.request.caller.share,
            suspended=self.suspended,
            lane=self.request.lane,
            prefix=self.prefix,
            engine=self.engine or 0,
        )

    def to_sequence(self, stop_ids: list[int], reserve: int) -> Sequence:
        """The sequence for the engine: the prompt and the tokens generated so far.

        It ends at `stop_ids`, the model's own, and at those of the request. `reserve` is the number
        of generated tokens for which KV memory is reserved. The salt is the tenant's id, so tenants
        share no cached prefixes.
        """
        stops = self.request.stops
        return Sequence(
            id=self.sequence_id,
            prompt=self.prompt,
            generated=self.tokens.copy(),
            max_tokens=self.max_tokens,
            reserve=reserve,
            stop_ids=[*([] if stops.ignore_eos else stop_ids), *stops.token_ids],
            sampling=replace(self.request.sampling, seed=self._seed, bad_words=self.bad_words),
            salt=self.tenant,
            preempt_first=self.preempt_first,
            grammar=self.grammar,
            memory=self.memory,
            expected=ceil(self.prediction.median),
            seeded=self.request.seed is not None,
            whole=not (self.request.streamed or stops.strings),
        )

    @property
    def _seed(self) -> int:
        """A seed per choice, from the id unless the client sets one; the same after a resume."""
        if self.request.seed is None:
            return self.id.int & (2**63 - 1)
        return self.request.seed + self.choice

    def limit_to_context(self, context_tokens: int) -> None:
        """Limit the answer to a context that may have shrunk.

        ContextLengthExceeded if the request no longer fits.
        """
        try:
            room = answer_limit(
                len(self.prompt),
                self.request.max_tokens,
                context_tokens,
                param=self.request.param,
                limit_param=self.request.limit_param,
            )
        except ContextLengthExceeded as error:
            raise ContextLengthExceeded(
                f"the engine's KV memory has become smaller: {error.message}", param=error.param
            ) from error
        self.max_tokens = min(self.max_tokens, room)

    def suspend(self, now_s: float) -> None:
        """Note that it was preempted."""
        self.preemptions += 1
        self.suspended = True
        if self.suspended_at_s is None:
            self.suspended_at_s = now_s

    def preempted_until(self, now_s: float) -> float:
        """Seconds for which it was preempted until then."""
        since_s = 0.0 if self.suspended_at_s is None else now_s - self.suspended_at_s
        return self.preempted_s + since_s

    def grow(self, tokens: list[int], now_s: float, logprobs: Many[TokenLogprobs] = ()) -> bool:
        """Append one step's tokens; True if they complete a stop string.

        Tokens beyond the stop string are dropped: not counted, recorded or shown.
        """
        self.suspended = False
        if self.suspended_at_s is not None:
            self.preempted_s, self.suspended_at_s = self.preempted_until(now_s), None
        if self.first_token_s is None:
            self.first_token_s = now_s
        self.grew_s, self.grew_tokens = now_s, len(tokens)
        stopped = self.answer.grow(tokens, logprobs)
        self._grew.set()
        return stopped

    def stopped_at(self, stop_id: int) -> None:
        """Note the stop id that ends the answer: the model's own, or one of the request's."""
        stops = self.request.stops
        if stop_id in stops.token_ids:
            self.stop_id = stop_id
        if stops.shown:
            self.answer.show_stop(stop_id)

    def read(self, *, ended: bool) -> Piece:
        """The text and tokens since the last call; with `ended` all that is left."""
        return self.answer.read(ended=ended)

    def read_parts(self, *, ended: bool) -> Iterator[Piece]:
        """What `read` returns, in parts of limited size that are decoded as they are taken."""
        count = len(self.tokens)
        yield from self.answer.read_parts(ended=ended)
        self.delivered_tokens = count

    def end(self, reason: str, now_s: float, error: LmaasError | None = None) -> None:
        """End the choice with a finish reason; its reader sees it from `release` on."""
        self.finish_reason = reason
        self.error = error
        self.finished_s = now_s

    def release(self) -> None:
        """Let the reader see that the choice has ended."""
        self.released = True
        self._grew.set()

    async def wait_for_growth(self) -> None:
        """Wait for new tokens since the last call; return at once when done."""
        if not self.done:
            await self._grew.wait()
            self._grew.clear()

    async def wait_for_end(self) -> None:
        """Wait until the choice is done."""
        while not self.done:
            await self.wait_for_growth()
