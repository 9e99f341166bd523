"""Takes, grows and settles the holds of live requests in one ledger."""

import time
from collections.abc import Callable, Mapping
from math import ceil
from typing import Final, Literal, Protocol, TypeAlias

import structlog

from gateway.errors import DatabaseLost
from gateway.generation.holds.refusal import limit_reached, refuse_above
from gateway.generation.request import Ceiling, GenerationRequest
from gateway.generation.request_state import RequestState
from gateway.history.record import Record
from gateway.limits.hold_ledger import AccountName, Ask, HoldLedger, Refused
from gateway.limits.hold_size import further_hold
from gateway.limits.limit import Amounts, Quantity, Standing, Subjects
from gateway.limits.request_hold import RequestHold
from gateway.prediction.messages import Prediction
from gateway.quantiles import P90
from gateway.usage.price_list import PriceList

SpentBudget: TypeAlias = Literal["end", "overrun"]

UNKNOWN_TIME_S: Final = 10.0  # that a request is expected to take before any has ended
AHEAD: Final = 16  # tokens before its hold's end an answer asks for more, which may take a while
MAX_ROUNDS: Final = 3  # of leasing for a request: others may take what it waited for
SHOWN: Final[tuple[Quantity, ...]] = ("requests", "tokens")

log = structlog.get_logger()


class Leasing(Protocol):
    """Leases parts of shared limits."""

    async def extend(self, wanted: Mapping[AccountName, int]) -> bool:
        """Lease these amounts more; False if there was too little a moment ago. DatabaseLost."""

    def want(self, wanted: Mapping[AccountName, int]) -> bool:
        """Lease these amounts more soon; False if there was too little a moment ago."""


class Holds:
    """The holds of one gateway.

    An answer that outgrows its hold gets more while its budgets last. Then it ends, or, with
    `spent_budget` set to `overrun`, goes on.
    """

    def __init__(
        self,
        ledger: HoldLedger | None = None,
        prices: PriceList | None = None,
        *,
        lessor: Leasing | None = None,
        spent_budget: SpentBudget = "end",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` is in seconds of the epoch; without a lessor no other gateway has accounts."""
        self.ledger = HoldLedger() if ledger is None else ledger
        self._prices = PriceList("") if prices is None else prices
        self._lessor = lessor
        self._ahead = AHEAD if lessor else 0
        self._overruns = spent_budget == "overrun"
        self._clock = clock

    def check_ceiling(
        self,
        request: GenerationRequest,
        ceiling: Ceiling,
        prompt_tokens: int,
        max_tokens: int,
        prediction: Prediction,
    ) -> None:
        """CeilingExceeded if the request's own bounds refuse it."""
        tokens = _answer_tokens(prediction, max_tokens)
        cost = self._prices.cost(request.recorded_tier, self._clock())
        refuse_above(ceiling, tokens, cost.of(prompt_tokens, request.choices * tokens))

    async def admit(
        self,
        request: GenerationRequest,
        prompt_tokens: int,
        max_tokens: int,
        prediction: Prediction,
        *,
        lasts_s: float | None,
        pool: int,
    ) -> RequestHold:
        """Hold what the request is predicted not to exceed. LimitReached if a hard limit refuses.

        It is expected to end in `lasts_s` seconds, if that is known; `pool` is the size of the KV
        memory in tokens. DatabaseLost if more must be leased for a hard limit and cannot.
        """
        now_s = self._clock()
        hold = RequestHold(
            prompt_tokens=prompt_tokens,
            choices=request.choices,
            answer_tokens=_answer_tokens(prediction, max_tokens),
            cost=self._prices.cost(request.recorded_tier, now_s),
            pool=pool,
        )
        expected = min(ceil(prediction.mean), hold.answer_tokens)
        ask = Ask(
            name=hold,
            subjects=subjects_of(request),
            amounts=hold.amounts(hold.answer_tokens),
            expected=hold.amounts(expected),
            ends_s=now_s + (UNKNOWN_TIME_S if lasts_s is None else lasts_s),
        )
        await self._lease(ask)
        self._take(hold, ask)
        return hold

    async def _lease(self, ask: Ask) -> None:
        """Lease what the request lacks, while there is any. DatabaseLost."""
        for _ in range(MAX_ROUNDS if self._lessor else 0):
            assert self._lessor is not None
            short = self.ledger.short_of(ask, self._clock())
            if not short:
                return
            try:
                if not await self._lessor.extend(short):
                    return
            except DatabaseLost:
                if self.ledger.any_hard(short):
                    raise
                return

    def _take(self, hold: RequestHold, ask: Ask) -> None:
        now_s, subjects = self._clock(), ask.subjects
        verdict = self.ledger.ask(ask, now_s)
        standings = self._standings(subjects, now_s)
        if isinstance(verdict, Refused):
            log.info("request_over_limit", app=str(subjects.app), limit=verdict.limit.kind)
            raise limit_reached(verdict, standings)
        hold.beyond, hold.standings = verdict.beyond, standings
        hold.bounded = self.ledger.holds(hold)
        for limit in hold.beyond:
            log.info(
                "limit_exceeded",
                app=str(subjects.app),
                level=limit.level,
                limit=limit.kind,
                effect=limit.effect,
            )

    def revise(self, state: RequestState, prediction: Prediction) -> None:
        """Hold what a better prediction says, as far as budgets allow, before the first token."""
        if state.covered_tokens is None or state.tokens or state.ended:
            return
        wanted = _answer_tokens(prediction, state.max_tokens) - state.covered_tokens
        state.covered_tokens += self._grow(state, wanted)

    def cover(self, state: RequestState, tokens: int) -> int:
        """How many of these next tokens an answer may have; fewer if a budget is spent.

        Its hold grows to the 0.9 quantile of what remains of it.
        """
        written, covered, hold = len(state.tokens), state.covered_tokens, state.hold
        if hold is None or covered is None:
            return tokens
        missing = written + tokens - covered
        if missing + self._ahead <= 0 or covered >= state.max_tokens:
            return tokens
        further = further_hold(state.prediction.quantiles, state.max_tokens, written)
        wanted = min(written + max(further, tokens + self._ahead), state.max_tokens) - covered
        granted = self._grow(state, max(wanted, missing))
        if granted < wanted and self._lessor is not None:
            self._lessor.want(self.ledger.short_to_grow(hold, hold.unit, wanted - granted))
        if granted < missing and self._overruns:
            self.ledger.overrun(hold, hold.unit, missing - granted, self._clock())
            granted = missing
        state.covered_tokens = covered + granted
        if granted >= missing:
            return tokens
        state.ended_by = self.ledger.spent(hold, hold.unit, self._clock())
        return tokens - (missing - granted)

    def end(self, state: RequestState, *, counts: bool) -> None:
        """Settle what a choice held, and with the last choice the request's hold.

        As in usage, what failed used nothing, and a prompt is read once the first choice has
        started. It does not count if it will run again.
        """
        hold = state.hold
        if hold is None:
            return
        used = counts and state.finish_reason != "error"
        written = len(state.tokens) if used else 0
        hold.written_tokens += written
        hold.open_choices -= 1
        if used and state.choice == 0 and state.dispatched_s is not None:
            hold.read_tokens = hold.prompt_tokens
            hold.cached_tokens = min(state.cached_tokens or 0, hold.prompt_tokens)
        if not hold.open_choices:
            self.ledger.settle(hold, hold.used if counts else {}, self._clock())
        elif state.covered_tokens is not None:
            self._grow(state, written - state.covered_tokens)

    def charge_lost(self, record: Record) -> None:
        """Count in budgets what a killed gateway had delivered; its hold ended with it."""
        began_s, read, written = record.arrived_at.timestamp(), 0, record.generation_tokens
        if record.first_id is None and written:
            read = record.prompt_tokens
        price = self._prices.cost(record.service_tier or "default", began_s)
        cost = price.of(read, written, min(record.cached_tokens or 0, read))
        subjects = Subjects(
            tenant=record.tenant_id,
            app=record.app_id,
            key=record.api_key_id,
            user=record.end_user,
        )
        used: Amounts = {"tokens": read + written, "cost": cost}
        self.ledger.charge(subjects, used, began_s, self._clock())

    def abandon(self, hold: RequestHold, choices: int) -> None:
        """Give up what these choices of a request hold, which were not queued as others were."""
        hold.open_choices -= choices
        if not hold.open_choices:
            self.ledger.settle(hold, hold.used, self._clock())

    def release(self, hold: RequestHold) -> None:
        """Give up the hold of a request that was not queued."""
        self.ledger.settle(hold, {}, self._clock())

    def _grow(self, state: RequestState, tokens: int) -> int:
        assert state.hold is not None, "what is covered has a hold"
        return self.ledger.grow(state.hold, state.hold.unit, tokens, self._clock())

    def _standings(self, subjects: Subjects, now_s: float) -> dict[Quantity, Standing]:
        found = {name: self.ledger.standing(subjects, name, now_s) for name in SHOWN}
        return {name: standing for name, standing in found.items() if standing is not None}


def subjects_of(request: GenerationRequest) -> Subjects:
    """Those whom a request counts for."""
    caller = request.caller
    return Subjects(
        tenant=caller.tenant_id,
        app=caller.app_id,
        key=caller.api_key_id,
        user=request.end_user,
    )


def _answer_tokens(prediction: Prediction, max_tokens: int) -> int:
    """The tokens to hold for an answer: the predicted P90."""
    return min(max(ceil(prediction.quantiles[P90]), 1), max_tokens)
