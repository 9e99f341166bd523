"""The simulated engine of two lanes makes the same steps as the real engine's composer."""

from dataclasses import dataclass, replace
from itertools import accumulate, count

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.kv.host import HostTier, RestoreCosts
from engine.kv.pages import PagePool
from engine.protocol import Pin, StepWork
from engine.step.chunks import StepPlan, work_of
from engine.step.composer import Composer
from engine.step.memory import KvMemory
from engine.step.sequence import SequenceState
from engine.step.step_cost import amounts, full_rows
from gateway.replay.cost.model import EngineModel, EngineShape, LinearCost
from gateway.replay.engine.lanes import LanesEngine
from gateway.replay.engine.sequence import SimulatedSequence
from gateway.scheduling.admission.length_distribution import LengthDistributions
from gateway.scheduling.requests import Quantiles, QueuedRequest, RunningSequence, SharedPrefix

# a chunk of one token is a row to the engine, and a prompt to the simulation: both cost the same
COST = LinearCost(step_s=2**-6, prompt_token_s=2**-10, sequence_s=2**-10, kv_token_s=0.0)
COEFFICIENTS = COST.step_s, 0.0, COST.prompt_token_s, 0.0, COST.sequence_s, 0.0
PAGE_TOKENS = 4
FACTOR = 1.25  # exact in floating point
UNIT_S = 1 / 32


@dataclass(frozen=True)
class Line:
    """A sequence to run; `group` is that of its prefix, `shared` pages long; None for none."""

    wait: int
    own: int
    tokens: int
    reserve: int
    max_tokens: int
    group: int | None = None
    background: bool = False
    shared: int = 0
    pinned: bool = False

    @property
    def prompt(self) -> int:
        return self.shared * PAGE_TOKENS + self.own

    @property
    def quantiles(self) -> Quantiles:
        middle = float(min(max(self.reserve, 1), self.max_tokens))
        return 1.0, 1.0, middle, middle, middle, middle

    @property
    def pins(self) -> list[SharedPrefix]:
        return [self.prefix] if self.pinned and self.prefix else []

    @property
    def prefix(self) -> SharedPrefix | None:
        return None if self.group is None else prefix_of(self.group, self.shared)


def prefix_of(group: int, pages: int) -> SharedPrefix:
    return SharedPrefix(f"prefix {group}", pages * PAGE_TOKENS)


@st.composite
def submissions(draw: st.DrawFn, *, lanes: str, pins: bool = False) -> list[Line]:
    """Lines of a few groups, each fitting 16 pages, in these lanes."""
    pages = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    found = []
    for _ in range(draw(st.integers(1, 12))):
        group = draw(st.none() | st.integers(0, len(pages) - 1))
        shared = 0 if group is None else pages[group]
        tokens = draw(st.integers(1, 20))
        found.append(
            Line(
                wait=draw(st.integers(0, 8)),
                own=draw(st.integers(1, 64 - 20 - 4 * shared)),
                tokens=tokens,
                reserve=draw(st.integers(1, 24)),
                max_tokens=tokens,
                group=group,
                background=draw(st.sampled_from([lane == "b" for lane in lanes])),
                shared=shared,
                pinned=pins and group is not None and draw(st.booleans()),
            )
        )
    return found


@dataclass
class Outcome:
    finished_s: list[float]
    first_s: list[float]
    preemptions: list[int]
    busy_s: float
    computed: int
    held_rows: int
    lost_pins: set[str]


def shape(pages: int, step_tokens: int, max_sequences: int | None) -> EngineModel:
    return EngineModel(
        cost=COST,
        shape=EngineShape(
            pages=pages,
            page_tokens=PAGE_TOKENS,
            step_tokens=step_tokens,
            max_sequences=max_sequences,
            context_tokens=10_000,
            background_factor=FACTOR,
        ),
    )


def starts(lines: list[Line]) -> list[float]:
    return list(accumulate(line.wait * UNIT_S for line in lines))


class SimulatedRun:
    """The simulated engine, driven like by the replay; a group's last line unpins it."""

    def __init__(self, lines: list[Line], model: EngineModel) -> None:
        self.engine = LanesEngine(model)
        self.lines = lines
        self.sequences = [
            SimulatedSequence(
                index, request_of(index, line), line.tokens, line.reserve, line.prefix
            )
            for index, line in enumerate(lines)
        ]
        self.lost: list[str] = []

    def run(self) -> Outcome:
        engine, finished_s = self.engine, [float("nan")] * len(self.lines)
        left = list(zip(starts(self.lines), self.sequences, strict=True))
        open_lines = list(self.lines)
        while left or engine.next_s < float("inf"):
            now_s = min(engine.next_s, left[0][0] if left else float("inf"))
            unpins = []
            if engine.next_s <= now_s:
                for sequence in engine.settle():
                    finished_s[sequence.index] = now_s
                    unpins += done(open_lines, self.lines[sequence.index])
                self.lost += engine.take_lost_pins()
            if unpins:
                engine.submit([], now_s, unpins=unpins)
            while left and left[0][0] <= now_s:
                sequence = left.pop(0)[1]
                line = self.lines[sequence.index]
                engine.submit([sequence], now_s, line.pins)
            if engine.at_boundary:
                engine.compose()
                engine.check()
        return Outcome(
            finished_s,
            [sequence.first_token_s for sequence in self.sequences],
            [sequence.preemptions for sequence in self.sequences],
            engine.statistics.busy_s,
            engine.statistics.computed_tokens,
            engine.statistics.held_rows,
            {*self.lost, *engine.take_lost_pins()},
        )


def done(open_lines: list[Line], line: Line) -> list[str]:
    """Remove a line that ended; the prefix to unpin if it was the group's last."""
    index = next(index for index, each in enumerate(open_lines) if each is line)
    del open_lines[index]
    if line.prefix is None or any(each.group == line.group for each in open_lines):
        return []
    return [line.prefix.id]


def request_of(index: int, line: Line) -> QueuedRequest:
    return QueuedRequest(
        str(index), "t", line.prompt, line.quantiles, line.max_tokens, 0.0,
        lane="batch" if line.background else "interactive",
        prefix=line.prefix if line.background else None,
    )  # fmt: skip


class KnownCost:
    """The cost of a step, known from the start."""

    coefficients = COEFFICIENTS
    full_rows = full_rows(COEFFICIENTS, 0.0)  # replay knows no reads of rows to come

    def seconds(self, work: StepWork) -> float:
        return sum(c * a for c, a in zip(COEFFICIENTS, amounts(work), strict=True))


class ComposerRun:
    """The engine's composer, driven like by its loop, on a clock of modelled step times."""

    def __init__(self, lines: list[Line], model: EngineModel) -> None:
        memory = KvMemory(
            PagePool(model.shape.pages, PAGE_TOKENS),
            HostTier(0, RestoreCosts(1.0, 0.0)),
            pin_share=model.shape.pin_share,
        )
        self.composer = Composer(
            memory, model.shape.step_tokens, model.shape.max_sequences, background_factor=FACTOR
        )
        self.composer.background.cost = KnownCost()  # type: ignore[assignment]
        self.lines = lines
        self.left = list(zip(starts(lines), range(len(lines)), strict=True))
        self.open = list(lines)
        self.unpins: list[tuple[float, str]] = []
        self.ids = count(1_000)
        nan = [float("nan")] * len(lines)
        self.outcome = Outcome([*nan], [*nan], [0] * len(lines), 0.0, 0, 0, set())
        self.now_s = 0.0
        self.in_flight: tuple[StepPlan, float] | None = None
        self.exempt = False  # a victim's last token was being sampled: that is not simulated

    def run(self) -> Outcome:
        while self.left or self.in_flight or not self.composer.idle:
            if self.composer.idle and not self.in_flight:
                self.now_s = max(self.now_s, self.left[0][0])
            self.receive()
            flight = self.launch()
            self.outcome.lost_pins |= {*self.composer.memory.take_unpinned()}
            earlier, self.in_flight = self.in_flight, flight
            if earlier is not None:
                self.settle(*earlier)
        self.outcome.held_rows = self.composer.background.held_rows
        return self.outcome

    def receive(self) -> None:
        """Take what was submitted by now, in order."""
        while self.unpins or (self.left and self.left[0][0] <= self.now_s):
            if self.unpins and not (self.left and self.left[0][0] < self.unpins[0][0]):
                self.composer.memory.tree.unpin(self.unpins.pop(0)[1])
                self.composer.memory_freed()
            else:
                self.submit(self.left.pop(0)[1])

    def submit(self, index: int) -> None:
        line = self.lines[index]
        shared = [line.group or 0] * (line.shared * PAGE_TOKENS)
        if line.pinned and line.prefix is not None:
            self.composer.memory.pin(Pin(line.prefix.id, shared, "", 2))
        reserved = min(line.reserve, line.max_tokens)
        tokens = [*shared, *(next(self.ids) for _ in range(line.own))]
        self.composer.add(
            [
                SequenceState(
                    str(index), index, tokens, line.prompt, line.max_tokens, reserved, reserved,
                    preempt_first=2 if line.background else 0,
                )
            ]
        )  # fmt: skip

    def launch(self) -> tuple[StepPlan, float] | None:
        """Compose the next step, with remainders as known by then; returns it with its time."""
        running = [s for s in self.composer.running if not s.at_max_tokens]
        known = []
        for sequence in running:
            line = self.lines[int(sequence.id)]
            generated = sequence.generated + sequence.in_flight
            known.append(
                RunningSequence("", line.prompt, generated, line.quantiles, line.max_tokens)
            )
        remainders = (
            LengthDistributions.of(known).remaining_quantile(0.5).round().astype(int).tolist()
            if known
            else []
        )
        for sequence, remainder in zip(running, remainders, strict=True):
            sequence.expected = sequence.generated + remainder
        plan = self.composer.compose()
        self.composer.check()
        for victim in plan.preempted:
            line = self.lines[int(victim.id)]
            unfinished = victim.generated + victim.in_flight < line.tokens
            self.outcome.preemptions[int(victim.id)] += unfinished
            self.exempt = self.exempt or not unfinished
        if not plan.chunks:
            return None
        work = work_of(plan.chunks)
        self.outcome.computed += sum(chunk.length for chunk in plan.chunks)
        seconds = COST.seconds(
            work.prompt_tokens, work.sequences, work.kv_tokens, work.prompt_reads
        )
        return plan, seconds

    def settle(self, plan: StepPlan, seconds: float) -> None:
        self.now_s += seconds
        self.outcome.busy_s += seconds
        for chunk in plan.chunks:
            sequence = chunk.sequence
            if not chunk.samples_token:
                continue
            sequence.in_flight -= 1
            sequence.tokens.append(next(self.ids))
            if sequence.done:
                continue
            index = int(sequence.id)
            if sequence.generated == 1:
                self.outcome.first_s[index] = self.now_s
            if sequence.generated == self.lines[index].tokens:
                sequence.done = True
                self.outcome.finished_s[index] = self.now_s
                self.composer.ended(sequence)
                self.unpins += [(self.now_s, name) for name in done(self.open, self.lines[index])]


def check_same(
    lines: list[Line], pages: int, step_tokens: int, max_sequences: int | None = None
) -> Outcome:
    model = shape(pages, step_tokens, max_sequences)
    composer = ComposerRun(lines, model)
    real = composer.run()
    assume(not composer.exempt)
    assert SimulatedRun(lines, model).run() == real
    return real


@pytest.mark.parametrize("lanes", ["i", "b"])
@given(data=st.data())
def test_steps_match_the_engine_where_prefixes_are_shared(lanes: str, data: st.DataObject) -> None:
    check_same(data.draw(submissions(lanes=lanes)), pages=16, step_tokens=12)


@given(data=st.data())
def test_steps_match_the_engine_with_pins(data: st.DataObject) -> None:
    check_same(data.draw(submissions(lanes="b", pins=True)), pages=16, step_tokens=12)


@given(data=st.data())
def test_steps_match_the_engine_with_both_lanes(data: st.DataObject) -> None:
    check_same(data.draw(submissions(lanes="ib", pins=True)), pages=16, step_tokens=12)


@given(data=st.data(), lanes=st.sampled_from(["b", "ib"]))
def test_as_many_lines_of_jobs_run_as_a_step_has_tokens_as_in_the_engine(
    data: st.DataObject, lanes: str
) -> None:
    short = [
        replace(line, wait=line.wait // 8, own=1 + line.own % 3, group=None, shared=0, pinned=False)
        for line in data.draw(submissions(lanes=lanes))
    ]
    check_same(short, pages=48, step_tokens=4, max_sequences=2)
