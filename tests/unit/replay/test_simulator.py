"""A replay from event to event gives the same results as a simulation of single steps."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.replay.cost.model import EngineModel, EngineShape, GpuProfile, LinearCost
from gateway.replay.measure.results import ReplayResults, SeriesSampler
from gateway.replay.simulator import replay
from gateway.replay.workload.workload import Workload
from gateway.scheduling.admission.length_distribution import LengthDistributions
from gateway.scheduling.policy import POLICY_NAMES, Options, PolicyName, build_policy
from gateway.scheduling.requests import QueuedRequest, RunningSequence

COSTS = [
    LinearCost(step_s=2**-6, prompt_token_s=2**-12, sequence_s=2**-9, kv_token_s=2**-16),
    GpuProfile(
        name="card",
        weight_bytes=2**10,
        kv_bytes_per_token=2**4,
        bandwidth_bytes_s=2**17,
        flops_s=2**16,
        parameters=2**6,
        overhead_s=2**-8,
        memory_bytes=2**20,
    ),
]


@dataclass
class SlowSequence:
    """A sequence of the slow engine."""

    request: QueuedRequest
    tokens: int
    reserved: int
    arrival: int
    generated: int = 0
    computed: int = 0
    swapped: int = 0
    ended_step: int | None = None
    first_s: float = float("nan")
    preemptions: int = 0

    @property
    def length(self) -> int:
        return self.request.prompt_tokens + self.generated

    @property
    def pending(self) -> int:
        return self.length - self.computed

    @property
    def complete(self) -> bool:
        return self.generated >= self.request.max_tokens


@dataclass
class SlowEngine:
    """Simulates one step, one sequence and one token at a time."""

    model: EngineModel
    now_s: float = 0.0
    step: int = 0
    waiting: list[SlowSequence] = field(default_factory=list)
    preempted: list[SlowSequence] = field(default_factory=list)
    running: list[SlowSequence] = field(default_factory=list)
    submissions: list[list[Any]] = field(default_factory=list)  # ready_s, step or None, sequences
    decoding_now: list[SlowSequence] = field(default_factory=list)
    ends_s: float | None = None
    full: bool = False
    copy_s: float = 0.0
    busy_s: float = 0.0
    computed_tokens: int = 0
    recomputed_tokens: int = 0
    preemptions: int = 0

    def pages(self, tokens: int) -> int:
        return -(-tokens // self.model.shape.page_tokens)

    @property
    def free(self) -> int:
        return self.model.shape.pages - sum(self.pages(s.computed) for s in self.running)

    @property
    def next_s(self) -> float:
        if self.ends_s is not None:
            return self.ends_s
        return min((submission[0] for submission in self.submissions), default=float("inf"))

    def settle(self, now_s: float) -> list[SlowSequence]:
        self.now_s = now_s
        if self.ends_s is None:
            return []
        self.ends_s = None
        self.step += 1
        ended = []
        for sequence in self.decoding_now:
            sequence.generated += 1
            if sequence.generated == 1:
                sequence.first_s = now_s
            if sequence.generated == sequence.tokens:
                sequence.ended_step = self.step
                ended.append(sequence)
        self.decoding_now = []
        return sorted(ended, key=lambda s: s.arrival)

    def compose(self) -> None:
        for submission in self.submissions:
            if submission[1] is None and submission[0] <= self.now_s:
                submission[1] = self.step + self.model.shape.lag_steps
        ghost_steps = min(self.model.shape.lag_steps, 1)
        self.dismiss(lambda s: s.ended_step is not None and s.ended_step + ghost_steps <= self.step)
        computed = self.prepare()
        while not computed and any(s.ended_step is not None for s in self.running):
            self.wait()
            computed = self.prepare()
        if not computed:
            return
        prompts, kv_tokens, decoding = 0, 0, 0
        for sequence, tokens, single in computed:
            prompts += 0 if single else tokens
            decoding += single
            kv_tokens += sequence.length if single else 0
        seconds = self.copy_s + self.model.cost.seconds(prompts, decoding, kv_tokens)
        self.copy_s = 0.0
        self.busy_s += seconds
        self.computed_tokens += prompts + decoding
        self.ends_s = self.now_s + seconds

    def dismiss(self, gone: Callable[[SlowSequence], bool]) -> None:
        kept = [s for s in self.running if not gone(s)]
        if len(kept) < len(self.running):
            self.full = False
        self.running = kept

    def prepare(self) -> list[tuple[SlowSequence, int, bool]]:
        self.take(self.step)
        if not (self.running or self.preempted or self.waiting):
            self.take(float("inf"))
        for sequence in self.running:
            if not sequence.complete and sequence.generated >= sequence.reserved:
                sequence.reserved = min(2 * sequence.generated, sequence.request.max_tokens)
        self.preempt()
        self.start()
        return self.fill()

    def take(self, by_step: float) -> None:
        while (
            self.submissions
            and self.submissions[0][1] is not None
            and self.submissions[0][1] <= by_step
        ):
            self.waiting += self.submissions.pop(0)[2]

    def wait(self) -> None:
        self.dismiss(lambda s: s.ended_step is not None)
        self.take(float("inf"))

    def lacks_pages(self) -> bool:
        page_tokens = self.model.shape.page_tokens
        singles = [s for s in self.running if s.pending == 1 and not s.complete]
        if not singles:
            singles = [s for s in self.running if s.pending > 1][:1]
        return sum(s.computed % page_tokens == 0 for s in singles) > self.free

    def preempt(self) -> None:
        if not self.lacks_pages():
            return
        candidates = [s for s in self.running if not s.complete]
        candidates.sort(key=lambda s: s.pending > 1)
        arrivals = [s.arrival for s in candidates]
        ranked = sorted(zip(self.remainders(candidates), arrivals, strict=True))
        while self.lacks_pages():
            if len(ranked) <= 1:
                self.wait()
                return
            arrival = ranked.pop()[1]
            victim = next(s for s in candidates if s.arrival == arrival)
            self.running.remove(victim)
            self.full = False
            if victim.ended_step is not None:
                continue
            victim.preemptions += 1
            self.preemptions += 1
            if self.model.shape.swap_token_s is None:
                self.recomputed_tokens += victim.computed
            else:
                victim.swapped = victim.computed
                self.copy_s += victim.computed * self.model.shape.swap_token_s
            victim.computed = 0
            self.preempted = sorted([*self.preempted, victim], key=lambda s: s.arrival)

    def remainders(self, sequences: list[SlowSequence]) -> list[int]:
        """Computed together, as in the replay: rounding of medians at .5 depends on it."""
        known = [
            RunningSequence(
                "", s.request.prompt_tokens, min(s.generated, s.tokens),
                s.request.quantiles, s.request.max_tokens,
            )
            for s in sequences
        ]  # fmt: skip
        return LengthDistributions.of(known).remaining_quantile(0.5).round().astype(int).tolist()

    def start(self) -> None:
        shape = self.model.shape
        max_sequences = min(shape.step_tokens, shape.max_sequences or shape.step_tokens)
        while (
            not self.full and len(self.running) < max_sequences and (self.preempted or self.waiting)
        ):
            queue = self.preempted or self.waiting
            sequence = queue[0]
            min_reserved = min(sequence.generated + 1, sequence.request.max_tokens)
            sequence.reserved = max(sequence.reserved, min_reserved)
            if self.running and not self.fits(sequence):
                self.full = True
                return
            del queue[0]
            if sequence.swapped:
                self.copy_s += sequence.swapped * (shape.swap_token_s or 0)
            sequence.computed, sequence.swapped = sequence.swapped, 0
            self.running.append(sequence)

    def fits(self, candidate: SlowSequence) -> bool:
        if self.free < (self.pages(candidate.swapped) or 1):
            return False
        claims = [*self.running, candidate]
        ahead = [max(s.reserved - s.generated, 0) for s in claims]
        ends = {s.length + left for s, left in zip(claims, ahead, strict=True)}
        for steps in range(max(ends)):
            held = (
                self.pages(s.length + steps)
                for s, left in zip(claims, ahead, strict=True)
                if steps <= left
            )
            if steps in ahead and sum(held) > self.model.shape.pages:
                return False
        return True

    def fill(self) -> list[tuple[SlowSequence, int, bool]]:
        page_tokens, computed = self.model.shape.page_tokens, []
        singles = [s for s in self.running if s.pending == 1 and not s.complete]
        computed += [(sequence, 1, True) for sequence in singles]
        for sequence, _, _ in computed:
            sequence.computed += 1
            self.decoding_now.append(sequence)
        budget = self.model.shape.step_tokens - len(computed)
        for sequence in self.running:
            if budget <= 0 or sequence.pending <= 1 or sequence in self.decoding_now:
                continue
            tokens = 0
            while tokens < budget and sequence.pending:
                if sequence.computed % page_tokens == 0 and not self.free:
                    break
                sequence.computed += 1
                tokens += 1
            budget -= tokens
            if tokens:
                self.full = False
                computed.append((sequence, tokens, False))
            if not sequence.pending:
                self.decoding_now.append(sequence)
        return computed


class SlowReplay:
    """A gateway with the slow engine."""

    def __init__(self, workload: Workload, policy: Any, model: EngineModel) -> None:
        policy.resize(model.shape.pages, model.shape.page_tokens, model.shape.max_sequences)
        policy.admission.price(model.admission_cost)
        self.policy, self.workload, self.engine = policy, workload, SlowEngine(model)
        self.running: dict[str, SlowSequence] = {}
        self.batches: dict[str, list[Any]] = {}
        self.arrivals = self.results = self.waiting = 0
        self.seen: dict[str, list[float]] = {
            name: [float("nan")] * len(workload) for name in ("dispatched", "first", "finished")
        }
        self.preemptions = [0] * len(workload)

    def run(self) -> None:
        arrivals = [*self.workload.arrived_s.tolist(), float("inf")]
        arrived = 0
        while (now_s := min(arrivals[arrived], self.engine.next_s)) < float("inf"):
            decide = False
            if self.engine.next_s <= now_s:
                before = self.engine.step
                ended = self.engine.settle(now_s)
                self.report(ended, now_s)
                stepped = self.engine.step > before and self.engine.step % 16 == 0
                decide = bool(ended) or stepped
            while arrivals[arrived] <= now_s:
                self.policy.arrive(self.workload.request(arrived))
                self.waiting += 1
                arrived += 1
                decide = True
            if decide and self.waiting:
                self.decide(now_s)
            if self.engine.ends_s is None:
                self.engine.now_s = now_s
                self.engine.compose()

    def steps(self) -> None:
        if self.engine.step > self.results:
            self.policy.admission.advance(self.engine.step - self.results)
            self.results = self.engine.step

    def report(self, ended: list[SlowSequence], now_s: float) -> None:
        if not ended:
            return
        self.steps()
        for sequence in ended:
            index = int(sequence.request.id)
            self.seen["first"][index] = sequence.first_s
            self.seen["finished"][index] = now_s
            self.preemptions[index] = sequence.preemptions
            del self.running[sequence.request.id]
            self.policy.ended(sequence.request, sequence.tokens, now_s)
            batch = self.batches.pop(sequence.request.id)
            batch[1].append(sequence.tokens)
            if len(batch[1]) == len(batch[0]):
                longest = max(r.prompt_tokens for r in batch[0])
                self.policy.observe(len(batch[0]), longest, max(batch[1]), now_s - batch[2])

    def decide(self, now_s: float) -> None:
        self.steps()
        self.waiting -= len(self.policy.give_up(now_s))
        while self.waiting:
            if self.policy.admission.stale:
                known = [
                    RunningSequence(
                        s.request.id, s.request.prompt_tokens, min(s.generated, s.tokens),
                        s.request.quantiles, s.request.max_tokens,
                    )
                    for s in self.running.values()
                ]  # fmt: skip
                self.policy.admission.refresh(known)
            dispatch = self.policy.dispatch(now_s)
            if dispatch is None:
                return
            sequences = [self.started(request, now_s) for request in dispatch.requests]
            self.waiting -= len(sequences)
            batch = [dispatch.requests, [], now_s]
            self.batches.update((request.id, batch) for request in dispatch.requests)
            ready_s = now_s + self.engine.model.shape.submit_delay_s
            self.engine.submissions.append([ready_s, None, sequences])

    def started(self, request: QueuedRequest, now_s: float) -> SlowSequence:
        index = int(request.id)
        self.seen["dispatched"][index] = now_s
        self.arrivals += 1
        reserved = max(min(self.policy.admission.reserve(request), request.max_tokens), 1)
        tokens = int(self.workload.generation_tokens[index])
        sequence = self.running[request.id] = SlowSequence(request, tokens, reserved, self.arrivals)
        return sequence


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    """Up to 14 requests that each fit 14 pages of 4 tokens; arrivals are multiples of 1/64 s."""
    count = draw(st.integers(1, 14))
    waits = draw(st.lists(st.integers(0, 24), min_size=count, max_size=count))
    prompts = draw(st.lists(st.integers(1, 28), min_size=count, max_size=count))
    lengths = draw(st.lists(st.integers(1, 20), min_size=count, max_size=count))
    beyond = draw(st.lists(st.integers(0, 8), min_size=count, max_size=count))
    predicted = draw(st.lists(st.integers(1, 24), min_size=count, max_size=count))
    spread = np.array([0.5, 0.75, 1.0, 1.0, 1.25, 1.5])
    max_sequences = np.add(lengths, beyond)
    quantiles = np.clip(np.round(np.multiply.outer(predicted, spread)), 1, max_sequences[:, None])
    return Workload.of(
        np.cumsum(waits) / 64, prompts, lengths, max_tokens=max_sequences, quantiles=quantiles
    )


@st.composite
def models(draw: st.DrawFn) -> EngineModel:
    return EngineModel(
        cost=draw(st.sampled_from(COSTS)),
        shape=EngineShape(
            pages=draw(st.integers(14, 30)),
            page_tokens=4,
            step_tokens=draw(st.integers(3, 40)),
            max_sequences=draw(st.sampled_from([None, 3])),
            context_tokens=1_000,
            swap_token_s=draw(st.sampled_from([None, 2**-10])),
            lag_steps=draw(st.integers(0, 2)),
            submit_delay_s=draw(st.sampled_from([0.0, 2**-9, 2**-4])),
        ),
    )


def merged(calls: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The calls with consecutive steps summed and moved after arrivals, which ignore them."""
    found: list[tuple[Any, ...]] = []
    steps = 0
    for call in calls:
        if call[0] == "advance":
            steps += call[1]
            continue
        if steps and call[0] != "arrive":
            found.append(("advance", steps))
            steps = 0
        found.append(call)
    return found


@given(workloads(), models(), st.sampled_from(["longest", "upper", "held", "all"]))
def test_replay_equals_a_simulation_of_single_steps(
    a_policy: Any, workload: Workload, model: EngineModel, rule: str
) -> None:
    slow_policy, fast_policy = a_policy(rule), a_policy(rule)
    slow = SlowReplay(workload, slow_policy, model)
    slow.run()
    results = replay(workload, fast_policy, model, tau_floor=None)
    assert results.finished_s.tolist() == slow.seen["finished"]
    assert results.first_token_s.tolist() == slow.seen["first"]
    assert results.dispatched_s.tolist() == slow.seen["dispatched"]
    assert results.preemptions.tolist() == slow.preemptions
    assert merged(fast_policy.calls) == merged(slow_policy.calls)
    assert results.busy_s == slow.engine.busy_s
    assert results.steps == slow.engine.step
    assert results.computed_tokens == slow.engine.computed_tokens
    assert results.recomputed_tokens == slow.engine.recomputed_tokens


@pytest.fixture(scope="module")
def contended() -> Workload:
    """Six hundred requests in two seconds, predicted with an error."""
    random = np.random.default_rng(5)
    lengths = np.minimum(random.geometric(1 / 20, 600), 100)
    predicted = lengths * np.exp(random.normal(0, 0.4, 600))
    quantiles = np.clip(np.multiply.outer(predicted, [0.4, 0.7, 1, 1.4, 1.8, 2.2]), 1, 128)
    return Workload.of(
        np.sort(random.uniform(0, 2, 600)),
        random.integers(1, 60, 600),
        lengths,
        max_tokens=128,
        quantiles=quantiles,
    )


@pytest.mark.parametrize("rule", ["longest", "upper", "held", "all"])
def test_every_request_ends_once_with_all_its_tokens(
    a_policy: Any, a_model: Any, contended: Workload, rule: str
) -> None:
    policy = a_policy(rule)
    results = replay(contended, policy, a_model())
    ended = {call[1]: call[2] for call in policy.calls if call[0] == "ended"}
    assert sorted(map(int, ended)) == list(range(600))
    assert [ended[str(n)] for n in range(600)] == contended.generation_tokens.tolist()
    assert not results.gave_up.any()
    assert (contended.arrived_s <= results.dispatched_s).all()
    assert (results.dispatched_s < results.first_token_s).all()
    assert (results.first_token_s <= results.finished_s).all()
    assert (
        results.computed_tokens - results.recomputed_tokens
        >= (contended.prompt_tokens + contended.generation_tokens - 1).sum()
    )


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_every_request_ends_under_every_policy(
    a_model: Any, contended: Workload, name: str
) -> None:
    policy = build_policy(name, Options())
    results = replay(contended, policy, a_model())
    assert (contended.arrived_s <= results.dispatched_s).all()
    assert (results.dispatched_s < results.first_token_s).all()
    assert (results.first_token_s <= results.finished_s).all()
    assert not results.gave_up.any()
    assert results.kv_pages.max() <= 64
    assert len(policy) == 0
    assert policy.admission.empty
    policy.check()


def test_requests_with_deadlines_are_answered_or_given_up(
    a_model: Any, contended: Workload
) -> None:
    hurried = Workload.of(
        contended.arrived_s,
        contended.prompt_tokens,
        contended.generation_tokens,
        max_tokens=128,
        quantiles=contended.quantiles,
        deadline_s=5.0,
    )
    results = replay(hurried, build_policy("lmaas", Options()), a_model())
    assert 0 < results.gave_up.sum() < 600
    assert (results.gave_up == np.isnan(results.finished_s)).all()


def test_memory_reserved_for_max_tokens_never_runs_out(
    a_policy: Any, a_model: Any, contended: Workload
) -> None:
    results = replay(contended, a_policy("longest"), a_model())
    assert results.preemptions.sum() == results.recomputed_tokens == 0


def test_memory_counted_as_held_now_runs_out(
    a_policy: Any, a_model: Any, contended: Workload
) -> None:
    results = replay(contended, a_policy("held"), a_model())
    assert results.preemptions.sum() > 0
    assert results.recomputed_tokens > 0


def test_series_are_bounded_and_cover_the_run(
    a_policy: Any, a_model: Any, contended: Workload
) -> None:
    results = replay(contended, a_policy("upper"), a_model(), max_samples=50)
    columns = [results.time_s, results.waiting, results.running, results.kv_pages]
    assert {len(column) for column in columns} == {len(results.time_s)}
    assert 10 <= len(results.time_s) < 50
    apart_s = np.diff(results.time_s)
    assert apart_s == pytest.approx(apart_s[0])
    assert results.time_s[-1] > results.finished_s.max() - 2 * apart_s[0]
    assert results.kv_pages.max() <= 64
    assert results.waiting.max() > 0
    for time_s, waiting, running in zip(
        results.time_s, results.waiting, results.running, strict=True
    ):
        started, ended = (
            (results.dispatched_s <= time_s).sum(),
            (results.finished_s <= time_s).sum(),
        )
        assert running == started - ended
        assert waiting == (contended.arrived_s <= time_s).sum() - started


def test_mean_of_pages_is_near_that_of_their_series(
    a_policy: Any, a_model: Any, contended: Workload
) -> None:
    results = replay(contended, a_policy("upper"), a_model())
    assert results.page_seconds / results.busy_s == pytest.approx(results.kv_pages.mean(), rel=0.02)


def test_series_of_one_row_is_refused() -> None:
    with pytest.raises(ValueError, match="2 rows or more"):
        SeriesSampler(0.0, 1.0, 1)


def test_request_larger_than_the_engine_is_given_up(
    a_policy: Any, a_model: Any, a_workload: Any
) -> None:
    results = replay(a_workload((0, 300, 4), (0, 4, 4)), a_policy(), a_model())
    assert results.gave_up.tolist() == [True, False]
    assert np.isnan(results.finished_s[0])
    assert results.finished_s[1] > 0


def test_answer_is_cut_to_what_the_context_leaves(
    a_policy: Any, a_model: Any, a_workload: Any
) -> None:
    policy = a_policy()
    replay(a_workload((0, 20, 40)), policy, a_model(context_tokens=32))
    assert [call[:3] for call in policy.calls if call[0] == "ended"] == [("ended", "0", 12)]


def test_request_larger_than_what_is_free_runs_alone(
    a_policy: Any, a_model: Any, a_workload: Any
) -> None:
    results = replay(a_workload((0, 4, 4), (0, 200, 50), (0, 4, 4)), a_policy(), a_model())
    assert results.finished_s[0] < results.dispatched_s[1] + 1
    assert results.finished_s[1] > results.finished_s[0]
    assert not np.isnan(results.finished_s).any()


def test_request_past_its_start_limit_is_given_up(
    a_policy: Any, a_model: Any, a_workload: Any
) -> None:
    workload = a_workload((0, 200, 50), (0.01, 200, 50), start_by_s=[np.nan, 0.1])
    results = replay(workload, a_policy(), a_model())
    assert results.gave_up.tolist() == [False, True]
    assert np.isnan(results.dispatched_s[1])


def test_decisions_are_made_on_arrivals_on_ends_and_every_16_steps(
    a_policy: Any, a_model: Any, a_workload: Any
) -> None:
    policy = a_policy()
    model = a_model(pages=20)
    results = replay(a_workload((0, 1, 40), (0.25, 1, 40)), policy, model)
    times = [call[1] for call in policy.calls if call[0] == "dispatch"]
    step_16_s, step_32_s = (model.cost.run_seconds(1, 1, steps) for steps in (16, 32))
    expected = [0.0, 0.25, step_16_s, step_32_s, results.finished_s[0]]
    assert times == sorted(expected)
    assert results.decisions == len(times)


def test_shuffled_predictions_are_not_trusted(
    a_policy: Any, a_model: Any, contended: Workload
) -> None:
    policy = a_policy()
    shuffled = contended.with_quantiles(np.random.default_rng(1).permutation(contended.quantiles))
    assert replay(shuffled, policy, a_model()).order_changes == 0
    verdicts = [call for call in policy.calls if call[0] == "trust"]
    assert verdicts
    assert set(verdicts) == {("trust", False)}


def test_predictions_are_judged_once_there_are_enough_outcomes(
    a_policy: Any, a_model: Any, contended: Workload
) -> None:
    policy = a_policy()
    shuffled = contended.with_quantiles(np.random.default_rng(1).permutation(contended.quantiles))
    replay(shuffled, policy, a_model())
    calls = [call[0] for call in policy.calls if call[0] in ("ended", "trust")]
    assert calls.index("trust") == 100
    assert calls.count("trust") == 1


def test_good_predictions_stay_trusted(a_policy: Any, a_model: Any, contended: Workload) -> None:
    policy = a_policy()
    replay(contended, policy, a_model())
    assert not [call for call in policy.calls if call[0] == "trust"]


def test_predictions_are_always_trusted_without_a_floor(
    a_policy: Any, a_model: Any, contended: Workload
) -> None:
    policy = a_policy()
    replay(contended, policy, a_model(), tau_floor=None)
    assert not [call for call in policy.calls if call[0] == "trust"]


def test_every_request_ends_in_lockstep(a_policy: Any, a_model: Any, contended: Workload) -> None:
    policy = a_policy("held", mode="lockstep", batch_size=16)
    results = replay(contended, policy, a_model())
    ended = [call[1] for call in policy.calls if call[0] == "ended"]
    assert sorted(map(int, ended)) == list(range(600))
    assert results.preemptions.sum() > 0
    assert (results.first_token_s <= results.finished_s).all()
    assert results.kv_pages.max() <= 64


def test_batch_out_of_memory_returns_to_its_policy(
    a_policy: Any, a_model: Any, a_workload: Any
) -> None:
    policy = a_policy("held", mode="lockstep")
    workload = a_workload((0, 8, 20), (0, 8, 20), (0, 8, 2))
    results = replay(workload, policy, a_model(pages=12))
    (halved,) = policy.halved
    assert [(request.id, request.generated) for request in halved] == [("0", 9), ("1", 9)]
    assert results.preemptions.tolist() == [1, 1, 0]
    assert results.splits == 1
    assert results.finished_s[2] < results.finished_s[0] < results.finished_s[1]


def test_one_request_left_of_a_batch_is_queued_again_alone(
    a_policy: Any, a_model: Any, a_workload: Any
) -> None:
    policy = a_policy("held", mode="lockstep")
    workload = a_workload((0, 8, 20), (0, 8, 2), (0, 8, 4), (0, 8, 4))
    results = replay(workload, policy, a_model(pages=12))
    assert [[request.id for request in halved] for halved in policy.halved] == [["0"]]
    assert results.preemptions.tolist() == [1, 0, 0, 0]
    assert not np.isnan(results.finished_s).any()


def test_batch_too_large_for_the_memory_is_returned_before_it_starts(
    a_policy: Any, a_model: Any, a_workload: Any
) -> None:
    policy = a_policy("all", mode="lockstep")
    results = replay(a_workload((0, 30, 2), (0, 30, 2)), policy, a_model(pages=12))
    assert [[request.generated for request in halved] for halved in policy.halved] == [[0, 0]]
    assert results.recomputed_tokens == 0
    assert results.finished_s[0] < results.finished_s[1]


LOCKSTEP = [name for name in POLICY_NAMES if build_policy(name, Options()).lockstep]


@pytest.mark.parametrize("name", LOCKSTEP)
def test_no_lock_step_policy_loses_a_request_of_a_split_batch(
    a_model: Any, contended: Workload, name: PolicyName
) -> None:
    shorter = contended.with_quantiles(contended.quantiles / 4)  # so batches run out of memory
    results = replay(shorter, build_policy(name, Options(fixed_batch=16)), a_model(pages=48))
    assert results.preemptions.sum() > 0
    assert not np.isnan(results.finished_s).any()
    assert results.kv_pages.max() <= 48


def test_empty_workload_has_empty_results(a_policy: Any, a_model: Any) -> None:
    results = replay(Workload.of([], [], []), a_policy(), a_model())
    assert len(results.finished_s) == len(results.time_s) == results.steps == 0


def test_policy_that_never_dispatches_is_an_error(
    a_policy: Any, a_model: Any, a_workload: Any
) -> None:
    policy = a_policy(batch_size=0)
    with pytest.raises(RuntimeError, match="1 requests wait"):
        replay(a_workload((0, 4, 4)), policy, a_model())


def test_results_have_a_value_for_each_request(
    a_policy: Any, a_model: Any, contended: Workload
) -> None:
    results: ReplayResults = replay(contended, a_policy(), a_model())
    columns = (results.dispatched_s, results.first_token_s, results.finished_s,
               results.preemptions, results.overdue, results.gave_up)  # fmt: skip
    assert [len(column) for column in columns] == [600] * 6
