"""One period of a budget: requests arrive, hold, grow, end; what was refused, and wrongly."""

import heapq
from dataclasses import dataclass, field
from itertools import count
from typing import Final, NamedTuple
from uuid import UUID

from benchmarks.t1.rules import Rule
from gateway.limits.hold_ledger import Ask, HoldLedger, Refused
from gateway.limits.limit import Amounts, Limit, Subjects
from gateway.scheduling.requests import QueuedRequest

TOKEN_S: Final = 0.02  # an answer's time for a token
PREFILL_S: Final = 0.2
DAY_S: Final = 86_400.0
UNIT: Final[Amounts] = {"tokens": 1}
TENANT: Final = Subjects(tenant=UUID(int=1), app=UUID(int=2), key=UUID(int=3))
MEDIAN: Final = 2


class Arrival(NamedTuple):
    """A request of an app and the true length of its answer."""

    request: QueuedRequest
    app: str
    tokens: int

    @property
    def use(self) -> int:
        """The tokens it uses: prompt and answer."""
        return self.request.prompt_tokens + self.tokens

    @property
    def lasts_s(self) -> float:
        """The time from its start to its end."""
        return PREFILL_S + TOKEN_S * self.tokens


@dataclass
class Outcome:
    """What happened in a period. Token seconds are amounts times the lives of the requests."""

    admitted: int = 0
    refused: int = 0
    wrongly_refused: int = 0
    used: int = 0
    used_token_s: float = 0.0
    held_at_admission_token_s: float = 0.0
    held_token_s: float = 0.0
    grown: int = 0


@dataclass
class _Running:
    arrival: Arrival
    held: int
    since_s: float
    outcome: Outcome = field(repr=False)

    def now_holds(self, held: int, now_s: float) -> None:
        self.outcome.held_token_s += self.held * (now_s - self.since_s)
        self.held, self.since_s = held, now_s


def replay(arrivals: list[Arrival], budget: int, rule: Rule) -> Outcome:
    """The outcome of a period with this budget in tokens, when every request is served at once.

    Answers that outgrow a spent budget go on to their end, which overruns it.
    """
    ledger, outcome = HoldLedger([_limit(budget)]), Outcome()
    events: list[tuple[float, int, _Running]] = []  # when an answer ends or outgrows its hold
    order, admitted_use = count(), 0
    for arrival in arrivals:
        now_s = arrival.request.arrived_s
        while events and events[0][0] <= now_s:
            _advance(ledger, events, order, rule)
        held = rule.first(arrival.request, arrival.app)
        verdict = ledger.ask(_ask(arrival, held), now_s)
        if isinstance(verdict, Refused):
            outcome.refused += 1
            outcome.wrongly_refused += admitted_use + arrival.use <= budget
            continue
        admitted_use += arrival.use
        outcome.admitted += 1
        outcome.used += arrival.use
        outcome.used_token_s += arrival.use * arrival.lasts_s
        outcome.held_at_admission_token_s += held * arrival.lasts_s
        running = _Running(arrival, held, now_s, outcome)
        heapq.heappush(events, (_next_s(running), next(order), running))
    while events:
        _advance(ledger, events, order, rule)
    return outcome


def _advance(
    ledger: HoldLedger, events: list[tuple[float, int, _Running]], order: "count[int]", rule: Rule
) -> None:
    """End the next answer, or let its hold grow."""
    now_s, _, running = heapq.heappop(events)
    arrival, name = running.arrival, running.arrival.request.id
    generated = running.held - arrival.request.prompt_tokens
    if generated >= arrival.tokens:
        running.now_holds(0, now_s)
        ledger.settle(name, {"tokens": arrival.use}, now_s)
        return
    wanted = max(rule.further(arrival.request, generated), 1)
    ledger.grow(name, UNIT, wanted, now_s)
    running.outcome.grown += 1
    running.now_holds(running.held + wanted, now_s)
    heapq.heappush(events, (_next_s(running), next(order), running))


def _next_s(running: _Running) -> float:
    """When the answer ends, or has as many tokens as its hold, whichever is first."""
    arrival = running.arrival
    tokens = min(running.held - arrival.request.prompt_tokens, arrival.tokens)
    return arrival.request.arrived_s + PREFILL_S + TOKEN_S * tokens


def _ask(arrival: Arrival, held: int) -> Ask:
    request = arrival.request
    expected = request.prompt_tokens + round(request.quantiles[MEDIAN])
    return Ask(
        name=request.id,
        subjects=TENANT,
        amounts={"tokens": held},
        expected={"tokens": min(expected, held)},
        ends_s=request.arrived_s + PREFILL_S + TOKEN_S * request.quantiles[MEDIAN],
    )


def _limit(budget: int) -> Limit:
    return Limit(
        id=UUID(int=9),
        level="tenant",
        subject=TENANT.tenant,
        quantity="tokens",
        period="month",
        amount=budget,
    )
