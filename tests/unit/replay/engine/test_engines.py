"""The simulated engine makes the same steps as the real engine's composer."""

from dataclasses import dataclass, replace
from itertools import accumulate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.kv.host import HostTier, RestoreCosts
from engine.kv.pages import PagePool
from engine.kv.reservations import KvReservation, peak_pages
from engine.step.chunks import StepPlan
from engine.step.composer import Composer
from engine.step.lockstep import LockstepComposer
from engine.step.memory import KvMemory
from engine.step.sequence import SequenceState
from gateway.replay.cost.model import EngineModel, EngineShape, LinearCost
from gateway.replay.engine.base import SimulatedEngine
from gateway.replay.engine.continuous import ContinuousEngine
from gateway.replay.engine.decode_pages import DecodePages
from gateway.replay.engine.lockstep import LockstepEngine
from gateway.replay.engine.reservations import ReservedSpan, ReservedSpanTable, spans_fit
from gateway.replay.engine.sequence import SimulatedSequence
from gateway.replay.engine.timeline import Timeline
from gateway.scheduling.admission.length_distribution import LengthDistributions
from gateway.scheduling.magnus.lockstep import halves_of
from gateway.scheduling.requests import Quantiles, QueuedRequest, RunningSequence

COST = LinearCost(step_s=2**-6, prompt_token_s=2**-12, sequence_s=2**-9, kv_token_s=2**-16)
PAGE_TOKENS = 4


@dataclass(frozen=True)
class Job:
    """A sequence to run; `wait` is the time after the previous one, in 1/32 s."""

    wait: int
    prompt: int
    tokens: int
    reserve: int
    max_tokens: int

    @property
    def quantiles(self) -> Quantiles:
        middle = float(min(max(self.reserve, 1), self.max_tokens))
        return 1.0, 1.0, middle, middle, middle, middle


@st.composite
def jobs(draw: st.DrawFn, *, cut_off: bool) -> Job:
    """Jobs that fit 16 pages; `cut_off` answers end at max_tokens, others before."""
    tokens = draw(st.integers(1, 24))
    max_tokens = tokens if cut_off else tokens + draw(st.integers(1, 12))
    return Job(
        wait=draw(st.integers(0, 8)),
        prompt=draw(st.integers(1, 64 - max_tokens)),
        tokens=tokens,
        reserve=draw(st.integers(1, 30)),
        max_tokens=max_tokens,
    )


def model_of(pages: int = 16, step_tokens: int = 12, **shape: float | None) -> EngineModel:
    given = {"page_tokens": PAGE_TOKENS, "context_tokens": 10_000, **shape}
    return EngineModel(cost=COST, shape=EngineShape(pages=pages, step_tokens=step_tokens, **given))


def starts(submitted: list[Job]) -> list[float]:
    return list(accumulate(job.wait / 32 for job in submitted))


@dataclass
class EngineOutcome:
    finished_s: list[float]
    first_s: list[float]
    preemptions: list[int]
    extensions: int
    busy_s: float


def sequences_of(submitted: list[Job]) -> list[SimulatedSequence]:
    made = []
    for index, job in enumerate(submitted):
        request = QueuedRequest(str(index), "t", job.prompt, job.quantiles, job.max_tokens, 0.0)
        made.append(SimulatedSequence(index, request, job.tokens, job.reserve))
    return made


def simulated(submitted: list[Job], engine: ContinuousEngine) -> EngineOutcome:
    sequences, times = sequences_of(submitted), starts(submitted)
    finished_s = drive(engine, sequences, times)
    return EngineOutcome(
        finished_s=finished_s,
        first_s=[sequence.first_token_s for sequence in sequences],
        preemptions=[sequence.preemptions for sequence in sequences],
        extensions=engine.reservations.extensions,
        busy_s=engine.statistics.busy_s,
    )


def drive(
    engine: SimulatedEngine, sequences: list[SimulatedSequence], times: list[float]
) -> list[float]:
    """Submit each sequence at its time; returns the times of their ends."""
    finished_s = [float("nan")] * len(sequences)
    left = list(zip(times, sequences, strict=True))
    while left or engine.next_s < float("inf"):
        now_s = min(engine.next_s, left[0][0] if left else float("inf"))
        if engine.next_s <= now_s:
            for sequence in engine.settle():
                finished_s[sequence.index] = now_s
        while left and left[0][0] <= now_s:
            engine.submit([left.pop(0)[1]], now_s)
        if engine.at_boundary:
            engine.compose()
    return finished_s


class ComposerRun:
    """The engine's composer, driven like by its loop, on a clock of modelled step times."""

    def __init__(self, submitted: list[Job], pages: int, step_tokens: int) -> None:
        memory = KvMemory(
            PagePool(pages, PAGE_TOKENS), HostTier(0, RestoreCosts(1.0, 0.0)), sharing=False
        )
        self.composer = Composer(memory, step_tokens)
        self.jobs = submitted
        self.left = list(zip(starts(submitted), range(len(submitted)), strict=True))
        self.outcome = EngineOutcome(
            [float("nan")] * len(submitted), [float("nan")] * len(submitted),
            [0] * len(submitted), 0, 0.0,
        )  # fmt: skip
        self.now_s = 0.0
        self.in_flight: tuple[StepPlan, float] | None = None

    def run(self) -> EngineOutcome:
        while self.left or self.in_flight or not self.composer.idle:
            if self.composer.idle and not self.in_flight:
                self.now_s = max(self.now_s, self.left[0][0])
            while self.left and self.left[0][0] <= self.now_s:
                self.composer.add([self.real_sequence(self.left.pop(0)[1])])
            flight = self.launch()
            earlier, self.in_flight = self.in_flight, flight
            if earlier is not None:
                self.settle(*earlier)
        self.outcome.extensions = self.composer.extensions
        return self.outcome

    def real_sequence(self, index: int) -> SequenceState:
        job = self.jobs[index]
        reserved = min(job.reserve, job.max_tokens)
        return SequenceState(
            str(index), index, [0] * job.prompt, job.prompt, job.max_tokens, reserved, reserved
        )

    def launch(self) -> tuple[StepPlan, float] | None:
        """Compose the next step, with remainders as known by then; returns it with its time."""
        running = [s for s in self.composer.running if not s.at_max_tokens]
        running.sort(key=lambda s: s.uncomputed > 1)
        as_running = []
        for sequence in running:
            job = self.jobs[int(sequence.id)]
            generated = sequence.generated + sequence.in_flight
            as_running.append(
                RunningSequence("", job.prompt, generated, job.quantiles, job.max_tokens)
            )
        remainders = (
            LengthDistributions.of(as_running).remaining_quantile(0.5).round().astype(int).tolist()
        )
        for sequence, remainder in zip(running, remainders, strict=True):
            sequence.expected = sequence.generated + remainder
        plan = self.composer.compose()
        for victim in plan.preempted:
            job = self.jobs[int(victim.id)]
            self.outcome.preemptions[int(victim.id)] += (
                victim.generated + victim.in_flight < job.tokens
            )
        return self.timed(plan)

    @staticmethod
    def timed(plan: StepPlan) -> tuple[StepPlan, float] | None:
        """A step with its modelled time; None if it computes nothing."""
        if not any(chunk.length for chunk in plan.chunks):
            return None
        singles = [chunk for chunk in plan.chunks if chunk.samples_token and chunk.length == 1]
        prompts = sum(chunk.length for chunk in plan.chunks) - len(singles)
        kv_tokens = sum(chunk.start + 1 for chunk in singles)
        return plan, COST.seconds(prompts, len(singles), kv_tokens)

    def settle(self, plan: StepPlan, seconds: float) -> None:
        self.now_s += seconds
        self.outcome.busy_s += seconds
        for chunk in plan.chunks:
            sequence = chunk.sequence
            if not chunk.samples_token:
                continue
            sequence.in_flight -= 1
            sequence.tokens.append(0)
            if sequence.done:
                continue
            index = int(sequence.id)
            if sequence.generated == 1:
                self.outcome.first_s[index] = self.now_s
            if sequence.generated == self.jobs[index].tokens:
                sequence.done = True
                self.outcome.finished_s[index] = self.now_s
                self.composer.ended(sequence)


@given(st.lists(jobs(cut_off=True), min_size=1, max_size=12))
def test_steps_match_the_engine_for_answers_cut_off(submitted: list[Job]) -> None:
    real = ComposerRun(submitted, pages=16, step_tokens=12).run()
    assert simulated(submitted, ContinuousEngine(model_of())) == real


@given(st.lists(jobs(cut_off=False), min_size=1, max_size=12))
def test_steps_match_the_engine_for_answers_that_end(submitted: list[Job]) -> None:
    real = ComposerRun(submitted, pages=64, step_tokens=12).run()
    assert simulated(submitted, ContinuousEngine(model_of(pages=64))) == real


def test_steps_match_the_engine_under_preemption_and_doubling() -> None:
    submitted = [Job(0, 10, 20, 4, 20) for _ in range(6)]
    real = ComposerRun(submitted, pages=16, step_tokens=12).run()
    outcome = simulated(submitted, ContinuousEngine(model_of()))
    assert outcome == real
    assert sum(outcome.preemptions) > 0
    assert outcome.extensions >= len(submitted)


@given(
    st.lists(jobs(cut_off=False), min_size=1, max_size=10),
    st.sampled_from([0, 1, 2]),
    st.sampled_from([None, 2**-8]),
)
def test_pages_stay_within_the_pool_and_are_freed(
    submitted: list[Job], lag_steps: int, swap_token_s: float | None
) -> None:
    engine = ContinuousEngine(model_of(lag_steps=lag_steps, swap_token_s=swap_token_s))
    sequences, left = sequences_of(submitted), starts(submitted)
    engine.submit(sequences, left[0])
    ended = 0
    while engine.next_s < float("inf"):
        began_s = engine.next_s
        ended += len(engine.settle())
        engine.compose()
        assert 0 <= engine.free <= 16
        if engine.next_s < float("inf"):
            assert engine.pages_at((began_s + engine.next_s) / 2) <= 16
            assert engine.pages_at(engine.next_s) <= 16
    assert ended == len(submitted)
    assert engine.free == 16
    assert not [*engine.running, *engine.waiting, *engine.preempted]


def test_preempted_sequence_recomputes_its_tokens() -> None:
    submitted = [Job(0, 10, 20, 4, 20) for _ in range(6)]
    engine = ContinuousEngine(model_of())
    simulated(submitted, engine)
    needed = sum(job.prompt + job.tokens - 1 for job in submitted)
    assert engine.statistics.recomputed_tokens > 0
    assert engine.statistics.computed_tokens == needed + engine.statistics.recomputed_tokens


def test_swapped_sequence_recomputes_nothing_and_pays_for_copies() -> None:
    submitted = [Job(0, 10, 20, 4, 20) for _ in range(6)]
    free, dear = (ContinuousEngine(model_of(swap_token_s=s)) for s in (0.0, 2**-8))
    for engine in (free, dear):
        simulated(submitted, engine)
        assert engine.statistics.recomputed_tokens == 0
        assert engine.statistics.computed_tokens == sum(
            job.prompt + job.tokens - 1 for job in submitted
        )
    assert free.statistics.preemptions > 0
    assert dear.statistics.busy_s > free.statistics.busy_s


@pytest.mark.parametrize(("lag_steps", "started_step"), [(0, 2), (1, 3), (2, 4)])
def test_submission_is_taken_lag_steps_after_the_running_step(
    lag_steps: int, started_step: int
) -> None:
    engine = ContinuousEngine(model_of(lag_steps=lag_steps))
    first, second = sequences_of([Job(0, 1, 20, 20, 20), Job(0, 1, 1, 1, 1)])
    first_s, step_s = COST.seconds(0, 1, 1), COST.seconds(0, 1, 2)
    finished_s = drive(engine, [first, second], [0.0, first_s + step_s / 2])
    began_s = COST.run_seconds(1, 1, started_step)
    own_s = COST.seconds(0, 2, started_step + 2)
    assert finished_s[1] == began_s + own_s


def test_submission_in_transit_is_taken_on_arrival() -> None:
    engine = ContinuousEngine(model_of(submit_delay_s=1.0, lag_steps=0))
    (only,) = sequences_of([Job(0, 1, 1, 1, 1)])
    assert drive(engine, [only], [2.0]) == [3.0 + COST.seconds(0, 1, 1)]


def test_engine_computes_a_ghost_step_before_it_notices_an_end() -> None:
    ends, cut_off = Job(0, 8, 4, 4, 9), Job(0, 8, 4, 4, 4)
    computed = []
    for job, lag_steps in ((ends, 0), (ends, 1), (cut_off, 1)):
        engine = ContinuousEngine(model_of(lag_steps=lag_steps))
        simulated([job], engine)
        computed.append(engine.statistics.computed_tokens)
    assert computed == [11, 12, 11]


@pytest.mark.parametrize("max_spans", [12, 90])
@given(data=st.data())
def test_spans_fit_exactly_if_their_peak_fits(max_spans: int, data: st.DataObject) -> None:
    each = st.tuples(st.integers(0, 40), st.integers(1, 60))
    lengths = data.draw(st.lists(each, min_size=1, max_size=max_spans))
    page_tokens, step = data.draw(st.integers(1, 9)), data.draw(st.integers(0, 100))
    peak = peak_pages([KvReservation(tokens, left) for left, tokens in lengths], page_tokens)
    for pages in (peak - 1, peak, data.draw(st.integers(1, 2 * peak))):
        spans = ReservedSpanTable().with_others(
            ReservedSpan(step + left, tokens - step) for left, tokens in lengths
        )
        assert spans_fit(spans, page_tokens, pages) == (peak <= pages)


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 9), st.integers(-9, 9))))
def test_span_table_has_the_spans_put_and_not_dropped(changes: list[tuple[int, int, int]]) -> None:
    table, expected = ReservedSpanTable(), dict[int, tuple[int, int]]()
    for key, end, length_offset in changes:
        if end == 0 and expected.pop(key, None):
            table.drop(key)
        elif end:
            table.put(key, end, length_offset)
            expected[key] = end, length_offset
    assert sorted(map(tuple, table.with_others([]).T.tolist())) == sorted(expected.values())


@given(
    st.lists(st.integers(1, 40), max_size=8),
    st.integers(0, 30),
    st.integers(0, 60),
    st.integers(1, 7),
)
def test_decode_pages_are_the_sum_over_sequences(
    length_offsets: list[int], step: int, steps: int, page_tokens: int
) -> None:
    decode_pages = DecodePages(page_tokens)
    for length_offset in length_offsets:
        decode_pages.add(length_offset)

    def pages(at: int) -> int:
        return sum(-(-(at + length_offset - 1) // page_tokens) for length_offset in length_offsets)

    assert decode_pages.new_pages_over(step, steps) == pages(step + steps) - pages(step)
    assert decode_pages.new_pages(step) == pages(step + 1) - pages(step)
    assert decode_pages.kv_tokens(step) == sum(
        step + length_offset for length_offset in length_offsets
    )
    for free in range(12):
        fitting = [n for n in range(steps + 1) if pages(step + n) - pages(step) <= free]
        assert decode_pages.steps_that_fit(step, free, steps) == max(fitting)


@given(st.integers(1, 200), st.integers(1, 30), st.integers(0, 5000), st.floats(0, 1))
@example(100, 1, 0, 1.0)
def test_boundary_is_the_first_at_or_after_a_time(
    steps: int, sequences: int, kv_tokens: int, share: float
) -> None:
    timeline = Timeline(COST)
    timeline.run(1.0, 10, 10 + steps, sequences, kv_tokens, 0.0)
    at_s = 1.0 + share * (timeline.ended_s - 1.0)
    ends = [timeline.reached_s(boundary) for boundary in range(10, 11 + steps)]
    assert timeline.boundary(at_s) == 10 + next(n for n, end_s in enumerate(ends) if end_s >= at_s)
    assert timeline.steps_done(at_s) == 10 + sum(end_s <= at_s for end_s in ends[1:])


def lockstep(
    submitted: list[Job], pages: int, step_tokens: int = 12
) -> tuple[LockstepEngine, list[float]]:
    """Run all jobs as one batch, and submit what is returned of it again in halves."""
    engine = LockstepEngine(model_of(pages=pages, step_tokens=step_tokens))
    sequences = sequences_of(submitted)
    engine.submit(sequences, 0.0)
    finished_s = [float("nan")] * len(sequences)
    while engine.next_s < float("inf"):
        now_s = engine.next_s
        for sequence in engine.settle():
            finished_s[sequence.index] = now_s
            assert sequence.generated == sequence.tokens
        for half in halves_of(engine.take_returned()):
            engine.submit(list(half), now_s)
        engine.compose()
        assert engine.pages_at(now_s) <= pages
    return engine, finished_s


def test_lockstep_batch_ends_together_and_reads_its_padding() -> None:
    engine, finished_s = lockstep([Job(0, 10, 6, 6, 6), Job(0, 3, 2, 2, 2)], pages=16)
    prefill_s = COST.seconds(12, 0, 0) + COST.seconds(8, 0, 0)
    decode_s = COST.run_seconds(2, 2 * 11, 5)
    assert finished_s == [prefill_s + decode_s] * 2
    assert engine.statistics.computed_tokens == 20 + 2 * 5 + 2  # with one ghost step
    assert engine.statistics.invalid_tokens == 6 - 2  # of the row that ended first


def test_lockstep_batch_out_of_pages_is_returned_and_continues() -> None:
    submitted = [Job(0, 8, 20, 20, 20), Job(0, 8, 9, 9, 9), Job(0, 8, 20, 20, 20)]
    engine, finished_s = lockstep(submitted, pages=12)  # four pages, 16 tokens, each
    assert engine.statistics.preemptions == 2
    assert finished_s[1] < finished_s[0] < finished_s[2]


@given(st.lists(jobs(cut_off=False), min_size=1, max_size=8))
def test_every_lockstep_batch_ends(submitted: list[Job]) -> None:
    engine, finished_s = lockstep(submitted, pages=16)
    assert all(end_s > 0 for end_s in finished_s)
    assert engine.statistics.page_seconds <= 16 * engine.statistics.busy_s


class LockstepComposerRun(ComposerRun):
    """The engine's composer of lock-step batches; halves what it returns, like the gateway."""

    def __init__(self, submitted: list[Job], pages: int, step_tokens: int) -> None:
        super().__init__(submitted, pages, step_tokens)
        self.composer = LockstepComposer(self.composer.memory, step_tokens)  # type: ignore[assignment]
        self.composer.add([self.real_sequence(index) for index in range(len(submitted))])
        self.left = []

    def launch(self) -> tuple[StepPlan, float] | None:
        plan = self.composer.compose()
        self.note_finished()
        for half in halves_of(plan.returned):
            self.composer.add(half)
        return self.timed(plan)

    def settle(self, plan: StepPlan, seconds: float) -> None:
        super().settle(plan, seconds)
        self.note_finished()

    def note_finished(self) -> None:
        for sequence in self.composer.take_finished():
            self.outcome.finished_s[int(sequence.id)] = self.now_s


@st.composite
def answered_jobs(draw: st.DrawFn) -> Job:
    """Jobs that fit 16 pages, and end at max_tokens or before."""
    job = draw(jobs(cut_off=draw(st.booleans())))
    return replace(job, wait=0, prompt=max(job.prompt, 2))


@given(st.lists(answered_jobs(), min_size=1, max_size=8))
def test_lockstep_steps_match_the_engine(submitted: list[Job]) -> None:
    real = LockstepComposerRun(submitted, pages=16, step_tokens=2_000)
    assert lockstep(submitted, pages=16, step_tokens=2_000)[1] == real.run().finished_s
