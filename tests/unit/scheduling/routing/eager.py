"""Routing and admission as written down first: every sum over every interval, at once.

What the product computes when it is needed, and where it may be other than 0, is compared with it.
It knows no prefixes.
"""

from collections.abc import Sequence
from math import ceil, exp

import numpy as np
from msgspec import structs

from gateway.quantiles import MEDIAN, Floats
from gateway.scheduling.admission.end_pace import RECENT_ENDS
from gateway.scheduling.admission.future_peak import (
    HALF_PAGE,
    MAX_TAKEN_BACK,
    MIN_VARIANCE,
    TAIL_CHANCES,
    TAIL_POINTS,
)
from gateway.scheduling.admission.interface import NO_CAPACITY, STEPS_BETWEEN_DECISIONS, Capacity
from gateway.scheduling.admission.length_distribution import (
    LengthDistributions,
    survival_function,
)
from gateway.scheduling.admission.page_forecast import (
    EPSILON,
    INTERVAL_ENDS,
    INTERVAL_STARTS,
    REFRESH_STEPS,
    SINGLE_STEPS,
    interval_count,
)
from gateway.scheduling.admission.prices import EngineCost, Prices, prices
from gateway.scheduling.requests import (
    Quantiles,
    QueuedRequest,
    RunningSequence,
    SharedPrefix,
)
from gateway.scheduling.routing.forecast import (
    MIDDLES,
    RECENT_STEPS,
    UNKNOWN_COST,
    WIDTHS,
    Ahead,
    WorkForecast,
    linear,
)

Uses = tuple[Floats, Floats]  # mean and variance, (H,) each


def survival_of(sequence: RunningSequence | QueuedRequest, steps: Floats) -> Floats:
    """P(it still runs) this number of steps from now."""
    function = survival_function(sequence.quantiles, sequence.max_tokens)
    done = sequence.generated

    def hazard(lengths: Floats) -> Floats:
        found: Floats = np.interp(np.log(np.maximum(lengths, 1)), function.knots, function.hazards)
        return found

    alive = np.exp(np.minimum(hazard(np.array([done + 1.0])) - hazard(done + steps), 0.0))
    alive[done + steps > sequence.max_tokens] = 0.0
    alive[steps == 0] = 1.0
    return alive


class EagerPeak:
    """`FuturePeak`, without the rule for an unknown cost."""

    def __init__(self) -> None:
        self.capacity = NO_CAPACITY
        self.cost: EngineCost | None = None
        self.assumed: Quantiles | None = None
        self.joined: dict[str, Uses] = {}
        self.victim = (0.0, 0)  # the longest remainder, and the tokens of that sequence
        self.ran = self.ended = 0.0  # steps and ends
        self.outdated = False
        self.resize(NO_CAPACITY)

    @property
    def empty(self) -> bool:
        return not self.joined

    @property
    def stale(self) -> bool:
        return self.steps >= REFRESH_STEPS or self.outdated

    def outdate(self) -> None:
        self.outdated = self.outdated or bool(self.joined)

    def resize(self, capacity: Capacity) -> None:
        self.capacity, self.steps = capacity, 0
        self.count = max(interval_count(capacity.tokens), SINGLE_STEPS + 2)
        self.mean = self.variance = np.zeros(self.count)
        self.outdated = bool(self.joined)

    def refresh(self, running: Sequence[RunningSequence]) -> None:
        self.steps, self.outdated, self.joined = 0, False, {}
        self.mean = self.variance = np.zeros(self.count)
        self.victim = (0.0, 0)
        for sequence in running:
            known = sequence
            if self.assumed is not None:
                known = structs.replace(sequence, quantiles=self.assumed)
            remaining = float(LengthDistributions.of([known]).remaining_quantile(0.5)[0])
            farthest, largest = self.victim
            if not sequence.suspended and remaining > farthest * (1 + EPSILON):
                self.victim = remaining, sequence.kv_tokens
            elif not sequence.suspended and remaining >= farthest * (1 - EPSILON):
                self.victim = farthest, max(largest, sequence.kv_tokens)
            longest = np.minimum(known.generated + INTERVAL_ENDS[: self.count], known.max_tokens)
            tokens = known.prompt_tokens + np.maximum(longest, known.generated)
            alive = survival_of(known, INTERVAL_STARTS[: self.count])
            self.add(sequence.id, alive, np.ceil(tokens / self.capacity.page_tokens))

    def add(self, request_id: str, alive: Floats, pages: Floats) -> None:
        use = pages * alive, pages**2 * alive * (1 - alive)
        self.joined[request_id] = use
        self.mean, self.variance = self.mean + use[0], self.variance + use[1]

    def advance(self, steps: int) -> None:
        self.steps = min(self.steps + steps, REFRESH_STEPS)
        self.ran += steps

    def leave(self, request_id: str) -> None:
        if request_id in self.joined:
            self.ended += 1
            if self.ended > RECENT_ENDS:
                self.ran, self.ended = self.ran * RECENT_ENDS / self.ended, RECENT_ENDS
        use = self.joined.pop(request_id, None)
        if use is not None and not self.outdated:
            self.mean = self.mean - use[0]
            self.variance = np.maximum(self.variance - use[1], 0.0)

    def admit(self, requests: Sequence[QueuedRequest]) -> int:
        for index, request in enumerate(requests):
            alone = self.empty and self.capacity.fits_alone(request)
            if not alone and not (
                self.capacity.allows(len(self.joined)) and self.fits(request) and self.pays(request)
            ):
                return index
            self.force(request)
        return len(requests)

    def force(self, request: QueuedRequest) -> None:
        self.add(request.id, *self.course(request))

    def course(self, request: QueuedRequest) -> tuple[Floats, Floats]:
        known = request
        if self.assumed is not None:
            known = structs.replace(request, quantiles=self.assumed)
        first = np.maximum(INTERVAL_STARTS[: self.count] - self.steps, 0.0)
        last = np.maximum(INTERVAL_ENDS[: self.count] - self.steps, 0.0)
        tokens = known.prompt_tokens + np.minimum(last, known.max_tokens)
        alive = survival_of(structs.replace(known, generated=0), first)
        return alive, np.ceil(tokens / self.capacity.page_tokens)

    def fits(self, request: QueuedRequest) -> bool:
        own = self.capacity.pages_for(request.prompt_tokens)
        return bool(self.mean[self.steps] + own <= self.capacity.pages)

    def pays(self, request: QueuedRequest) -> bool:
        price = self.prices()
        first = np.maximum(INTERVAL_STARTS[: self.count] - self.steps, 0.0)
        widths = np.maximum(INTERVAL_ENDS[: self.count] - self.steps, 0.0) - first + 1
        pace = self.ran / self.ended if self.ended else None
        next_end = STEPS_BETWEEN_DECISIONS if pace is None else max(pace, 1.0)
        next_end = min(next_end, STEPS_BETWEEN_DECISIONS)
        median = (self.assumed or request.quantiles)[MEDIAN]
        remaining, tokens = self.victim
        if remaining <= min(median, request.max_tokens) * (1 + EPSILON):
            tokens = request.prompt_tokens
        mean_pages = max(float(self.mean[self.steps]), 1.0) / max(len(self.joined), 1)
        loss = price.preemption(tokens, self.capacity.pages_for(tokens) / mean_pages, pace or 0.0)
        enough = max(loss.break_even_steps(price.produced_s), next_end + 1)
        end = int(first.searchsorted(min(enough, request.max_tokens + 1)))
        ahead = slice(self.steps + 1, end)
        if end <= self.steps + 1:
            return True
        alive, pages = (part[ahead] for part in self.course(request))
        first, widths = first[ahead], widths[ahead]
        mean = self.mean[ahead] + pages * alive
        variance = self.variance[ahead] + pages**2 * alive * (1 - alive)
        excess = (mean - self.capacity.pages - HALF_PAGE) / np.sqrt(variance + MIN_VARIANCE)
        exceeded = np.interp(excess, TAIL_POINTS, TAIL_CHANCES)
        generated = (alive * widths).cumsum() - alive * (widths - 1)
        decision = int(first.searchsorted(next_end, side="right"))
        generated = np.maximum(generated, generated[decision - 1])
        lost_s = (loss.now_s + loss.step_s * first) * alive * exceeded
        return not (lost_s > price.produced_s * generated).any()

    def prices(self) -> Prices:
        assert self.cost is not None
        kv_tokens = float(self.mean[self.steps]) * self.capacity.page_tokens
        return prices(self.cost, len(self.joined), kv_tokens)

    def reserve(self, request: QueuedRequest) -> int:
        price = self.prices()
        break_even = price.preemption(request.prompt_tokens).break_even_steps(price.produced_s)
        steps = min(break_even / MAX_TAKEN_BACK, request.median)
        return max(1, min(ceil(steps), request.max_tokens))

    def assume(self, quantiles: Quantiles | None) -> None:
        if quantiles != self.assumed:
            self.assumed = quantiles
            self.outdate()

    def price(self, cost: EngineCost | None) -> None:
        self.cost = cost

    def pin(self, prefix: SharedPrefix) -> None:
        raise NotImplementedError(prefix)

    def unpin(self, prefix_id: str) -> None:
        raise NotImplementedError(prefix_id)


class EagerForecast(WorkForecast):
    """`WorkForecast`, engine by engine, from what each sequence has ahead."""

    def __init__(self, engines: int) -> None:
        self.costs = [UNKNOWN_COST] * engines
        self.step_tokens = [0] * engines
        self.uncomputed = [0.0] * engines
        self.prompts = [0.0] * engines
        self.ahead_of: list[dict[str, Uses]] = [{} for _ in range(engines)]
        self.assumed: Quantiles | None = None
        self.steps = np.zeros(engines, np.int64)

    def running(self, engine: int) -> int:
        return len(self.ahead_of[engine])

    def sums(self, engine: int) -> Uses:
        known = [(np.zeros(len(WIDTHS)),) * 2, *self.ahead_of[engine].values()]
        return sum(each[0] for each in known), sum(each[1] for each in known)  # type: ignore[return-value]

    def peak_tokens(self, engine: int) -> float:
        return float(self.sums(engine)[1].max())

    def price(self, engine: int, cost: EngineCost | None) -> None:
        self.costs[engine] = UNKNOWN_COST if cost is None else linear(cost)
        self.step_tokens[engine] = 0 if cost is None else cost.step_tokens

    def assume(self, quantiles: Quantiles | None) -> None:
        self.assumed = quantiles

    def part(self, sequence: QueuedRequest | RunningSequence) -> Uses:
        known = sequence
        if self.assumed is not None and not sequence.generated:
            known = structs.replace(sequence, quantiles=self.assumed)
        alive = survival_of(known, MIDDLES)
        return alive, alive * (sequence.prompt_tokens + sequence.generated + MIDDLES)

    def refresh(self, engine: int, running: Sequence[RunningSequence]) -> None:
        self.steps[engine] = 0
        self.ahead_of[engine] = {}
        for each in running:
            alive = survival_of(each, MIDDLES)
            self.ahead_of[engine][each.id] = alive, alive * (each.kv_tokens + MIDDLES)
        unstarted = sum(each.prompt_tokens for each in running if not each.generated)
        self.uncomputed[engine] = min(self.uncomputed[engine], unstarted)

    def advance(self, engine: int, steps: int) -> None:
        self.steps[engine] += steps
        self.prompts[engine] *= exp(-steps / RECENT_STEPS)
        room = max(self.step_tokens[engine] - self.running(engine), 1)
        self.uncomputed[engine] = max(self.uncomputed[engine] - steps * room, 0.0)

    def join(self, engine: int, sequence: QueuedRequest | RunningSequence, known: int) -> None:
        self.ahead_of[engine][sequence.id] = self.part(sequence)
        uncomputed = max(sequence.prompt_tokens + sequence.generated - known, 0)
        self.uncomputed[engine] += uncomputed
        self.prompts[engine] += uncomputed / RECENT_STEPS

    def leave(self, engine: int, sequence_id: str) -> None:
        self.ahead_of[engine].pop(sequence_id, None)

    def ahead(self, sequence: QueuedRequest | RunningSequence, known: Sequence[int]) -> Ahead:
        alive, own_tokens = self.part(sequence)
        held = sequence.prompt_tokens + sequence.generated
        own_s, others_s = [], []
        for engine, cost in enumerate(self.costs):
            sequences, tokens = self.sums(engine)
            computed = known[engine]
            prompt_s = cost.prompt_token_s * (held - computed)
            prompt_s += cost.prompt_read_s * (held**2 - computed**2) / 2
            idle_s = cost.step_s + cost.prompt_token_s * self.prompts[engine]
            step_s = idle_s + cost.sequence_s * (sequences + 1) + cost.kv_token_s * tokens
            reads_s = cost.kv_token_s * float((own_tokens * WIDTHS).sum())
            before_s = prompt_s + cost.prompt_token_s * self.uncomputed[engine]
            own_s.append(before_s + reads_s + float((alive * WIDTHS * step_s).sum()))
            longer = cost.sequence_s * alive + cost.kv_token_s * own_tokens
            met_s = float((sequences * longer * WIDTHS).sum())
            others_s.append(float(sequences[0]) * prompt_s + met_s)
        return Ahead(np.array(own_s), np.array(others_s))

    def check(self) -> None:
        """Nothing is summed beforehand."""
