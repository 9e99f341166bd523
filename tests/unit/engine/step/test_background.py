"""Background sequences: last into a step, first out of memory, never in another's way."""

from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.kv.host import HostTier, RestoreCosts
from engine.kv.pages import PagePool
from engine.protocol import BACKGROUND, Pin, StepWork
from engine.step.background import (
    ALONE_FACTOR,
    LEAST_ROWS,
    MAX_HELD_STEPS,
    RECENT_S,
    SAVED_STEPS,
    BackgroundWork,
)
from engine.step.chunks import StepPlan, work_of
from engine.step.composer import Composer
from engine.step.memory import KvMemory
from engine.step.sequence import SequenceState
from engine.step.step_cost import MIN_STEPS, amounts

PAGES, PAGE_TOKENS = 8, 4
CAPACITY = PAGES * PAGE_TOKENS
SWAP, RECOMPUTE = RestoreCosts(0.0, 1.0), RestoreCosts(1.0, 0.0)
FACTOR = 1.1


@dataclass(frozen=True)
class Job:
    """A sequence: when it is submitted, and how it ends."""

    prompt: int
    max_tokens: int
    reserve: int
    length: int
    text: int = 0
    preempt_first: int = 0
    step: int = 0


@st.composite
def jobs(draw: st.DrawFn, preempt_first: tuple[int, ...] = (0, 1, 2, 3)) -> Job:
    prompt = draw(st.integers(1, CAPACITY - 1))
    max_tokens = draw(st.integers(1, CAPACITY - prompt))
    return Job(
        prompt,
        max_tokens,
        reserve=draw(st.integers(1, max_tokens)),
        length=draw(st.integers(1, max_tokens)),
        text=draw(st.integers(0, 2)),
        preempt_first=draw(st.sampled_from(preempt_first)),
        step=draw(st.integers(0, 12)),
    )


def a_state(job: Job, arrival: int) -> SequenceState:
    return SequenceState(
        f"s{arrival}",
        arrival,
        [job.text] * job.prompt,
        job.prompt,
        job.max_tokens,
        job.reserve,
        job.reserve,
        preempt_first=job.preempt_first,
    )


def a_composer(
    step_tokens: int = 16,
    *,
    pages: int = PAGES,
    costs: RestoreCosts = RECOMPUTE,
    sharing: bool = False,
    max_running: int | None = None,
    pin_share: float = 1.0,
) -> Composer:
    memory = KvMemory(
        PagePool(pages, PAGE_TOKENS),
        HostTier(PAGES, costs),
        sharing=sharing,
        pin_share=pin_share,
    )
    return Composer(memory, step_tokens, max_running, FACTOR)


class Machine:
    """Runs a composer's steps, each settled after the next is composed if `pipelined`."""

    def __init__(
        self, composer: Composer, *, pipelined: bool = False, checked: bool = True
    ) -> None:
        self.composer = composer
        self.pipelined = pipelined
        self.checked = checked
        self.lengths: dict[str, int] = {}
        self.steps: list[StepPlan] = []
        self._in_flight: StepPlan | None = None

    def submit(self, *states: SequenceState, length: int | None = None) -> None:
        for state in states:
            self.lengths[state.id] = length or state.max_tokens
        self.composer.add(states)

    def step(self) -> StepPlan:
        plan = self.composer.compose()
        if self.checked:
            self.composer.check()
        assert all(chunk.length > 0 for chunk in plan.chunks)
        assert sum(chunk.length for chunk in plan.chunks) <= self.composer.step_tokens
        for swapped, _ in plan.copies.swap_out:
            swapped.fill(...)  # type: ignore[arg-type]
        assert all(swapped.content is ... for swapped, _ in plan.copies.swap_in)
        settled, self._in_flight = (self._in_flight, plan) if self.pipelined else (plan, None)
        if settled:
            self._settle(settled)
        if self.checked:
            self.composer.check()
        self.steps.append(plan)
        return plan

    @property
    def idle(self) -> bool:
        return self.composer.idle

    def _settle(self, plan: StepPlan) -> None:
        for chunk in plan.chunks:
            sequence = chunk.sequence
            sequence.in_flight -= chunk.samples_token
            if chunk.samples_token and not sequence.done:
                sequence.tokens.append(0)
                if sequence.generated == self.lengths[sequence.id]:
                    sequence.done = True
                    self.composer.ended(sequence)


@settings(deadline=None)
@given(st.data())
def test_every_sequence_ends_whatever_comes_between(data: st.DataObject) -> None:
    work = data.draw(st.lists(jobs(), min_size=1, max_size=8))
    composer = a_composer(
        data.draw(st.integers(1, 40)),
        costs=data.draw(st.sampled_from([SWAP, RECOMPUTE])),
        sharing=data.draw(st.booleans()),
        max_running=data.draw(st.sampled_from([None, 2, 99])),
        pin_share=data.draw(st.sampled_from([0.5, 1.0])),
    )
    machine = Machine(composer, pipelined=data.draw(st.booleans()))
    states = [a_state(job, number) for number, job in enumerate(work)]
    idle = 0
    for step in range(20_000):
        for job, state in zip(work, states, strict=True):
            if job.step == step:
                machine.submit(state, length=job.length)
        present = [s for s in states if s.id in machine.lengths and not s.done]
        event = data.draw(st.sampled_from(["", "", "pin", "unpin", "cancel", "revise", "preempt"]))
        if step < 40 and event == "pin":
            pinned = [data.draw(st.integers(0, 2))] * data.draw(st.integers(1, CAPACITY))
            name, rank = data.draw(st.sampled_from("xyz")), data.draw(st.integers(0, 3))
            composer.memory.pin(Pin(name, pinned, "", rank))
        elif step < 40 and event == "unpin":
            composer.memory.tree.unpin(data.draw(st.sampled_from("xyz")))
            composer.memory_freed()
        elif step < 40 and event and present:
            state = data.draw(st.sampled_from(present))
            if event == "revise":
                state.preempt_first = data.draw(st.integers(0, 3))
                composer.order_changed()
            elif event == "preempt":
                composer.preempt([state])
            else:
                state.done = True
                composer.remove(state)
        plan = machine.step()
        idle = 0 if plan.chunks else idle + 1
        if composer.idle and step > 12 and idle > 1:
            break
        assert idle < 4 or composer.idle, "no progress"
    assert all(state.done for state in states)
    composer.memory.tree.unpin_all()
    assert composer.memory.free == PAGES
    assert not composer.memory.host.used


class NeverDue(BackgroundWork):
    """Never takes the tokens of others."""

    @property
    def due(self) -> bool:
        return False


def schedule(
    work: list[tuple[int, Job]], composer: Composer, *, pipelined: bool
) -> list[list[tuple[str, int, int]]]:
    """The chunks of each step that are not background's, by arrival number and job."""
    composer.background = NeverDue(composer.step_tokens, PAGE_TOKENS, FACTOR)
    machine = Machine(composer, pipelined=pipelined)
    steps: list[list[tuple[str, int, int]]] = []
    while len(steps) < 13 or not machine.idle:
        for arrival, job in work:
            if job.step == len(steps):
                machine.submit(a_state(job, arrival), length=job.length)
        plan = machine.step()
        steps.append(
            [(c.sequence.id, c.start, c.length) for c in plan.chunks if not c.sequence.background]
        )
    while steps and not steps[-1]:
        steps.pop()
    return steps


@settings(deadline=None)
@example(  # background work ends while another waits for more than its memory
    others=[Job(1, 1, 1, 1), Job(5, 12, 12, 2, step=1), Job(1, 12, 12, 1, step=1)],
    background=[Job(1, 1, 1, 1, preempt_first=BACKGROUND)] * 2,
    step_tokens=2,
    max_running=None,
    costs=SWAP,
    pipelined=False,
)
@example(  # copies of background work in host memory leave no room for a copy of another
    others=[Job(3, 1, 1, 1, step=4), Job(27, 3, 1, 3, step=3)],
    background=[Job(7, 1, 1, 1, preempt_first=BACKGROUND)],
    step_tokens=2,
    max_running=None,
    costs=SWAP,
    pipelined=False,
)
@given(
    st.lists(jobs((0, 1)), min_size=1, max_size=5),
    st.lists(jobs((2, 3)), min_size=1, max_size=5),
    st.integers(2, 40),
    st.sampled_from([None, 1, 3]),
    st.sampled_from([SWAP, RECOMPUTE]),
    st.booleans(),
)
def test_others_are_scheduled_as_without_background(
    others: list[Job],
    background: list[Job],
    step_tokens: int,
    max_running: int | None,
    costs: RestoreCosts,
    pipelined: bool,
) -> None:
    numbered = list(enumerate(others))
    mixed = [*numbered, *enumerate(background, 100)]
    without, mixed_in = (
        schedule(
            work,
            a_composer(step_tokens, max_running=max_running, costs=costs),
            pipelined=pipelined,
        )
        for work in (numbered, mixed)
    )
    assert mixed_in == without


def a_background(prompt: int, max_tokens: int, arrival: int, text: int = 1) -> SequenceState:
    return a_state(Job(prompt, max_tokens, max_tokens, max_tokens, text, BACKGROUND), arrival)


def an_interactive(prompt: int, max_tokens: int, arrival: int) -> SequenceState:
    return a_state(Job(prompt, max_tokens, max_tokens, max_tokens), arrival)


def test_background_counts_apart_from_others() -> None:
    machine = Machine(a_composer(max_running=2))
    flood = [a_background(2, 6, number) for number in range(3)]
    machine.submit(*flood)
    machine.step()
    newcomers = [an_interactive(2, 2, number) for number in range(9, 12)]
    machine.submit(*newcomers)
    plan = machine.step()
    assert not plan.preempted
    assert machine.composer.running == [*flood[:2], *newcomers[:2]]


def run_rows(machine: Machine, rows: int) -> None:
    """Observe steps of up to `rows` rows, a tenth of a step's time each."""
    for number in range(4 * MIN_STEPS):
        work = StepWork(0, 0, 1 + number % rows, 0)
        machine.composer.background.cost.observe(work, 1.0 + 0.1 * work.sequences)
    assert machine.composer.background.cost.coefficients


def test_as_many_background_sequences_run_as_decode_at_full_speed() -> None:
    machine = Machine(a_composer(200, pages=4096, max_running=4))
    flood = [a_background(2, 30, number) for number in range(150)]
    machine.submit(*flood)
    machine.step()
    assert len(machine.composer.running) == 4  # until it is measured
    assert machine.composer.background.most_rows == 4
    run_rows(machine, 4)
    machine.step()
    assert machine.composer.background.most_rows == pytest.approx(90, abs=2)
    assert len(machine.composer.running) == machine.composer.background.most_rows


def test_steps_of_like_size_let_more_run_until_the_time_of_a_row_is_seen() -> None:
    machine = Machine(a_composer(512, pages=4096, max_running=8))
    machine.submit(*(a_background(2, 900, number) for number in range(300)))
    cost = machine.composer.background.cost
    most = 0
    for _ in range(40 * MIN_STEPS):
        work = work_of(machine.step().chunks)
        most = max(most, work.sequences)
        cost.observe(work, 1.0 + 0.1 * work.sequences)
        if cost.full_rows is not None:
            break
    assert most > 8
    assert machine.composer.background.most_rows == pytest.approx(90, rel=0.1)


def test_background_is_bounded_by_the_tokens_of_a_step_and_not_below_a_few() -> None:
    machine = Machine(a_composer(32, pages=4096, max_running=4))
    run_rows(machine, 4)
    assert machine.composer.background.most_rows == 32
    background = BackgroundWork(256, PAGE_TOKENS, FACTOR)
    for number in range(4 * MIN_STEPS):
        background.cost.observe(StepWork(0, 0, 1 + number % 4, 0), 0.01 + 1.0 * (1 + number % 4))
    assert background.cost.coefficients
    assert background.most_rows == LEAST_ROWS


def test_background_is_not_driven_out_for_one_that_would_not_fit_without_it() -> None:
    machine = Machine(a_composer())
    machine.submit(an_interactive(12, 12, 0))
    machine.step()
    job = a_background(2, 4, 1)
    machine.submit(job)
    machine.step()
    machine.submit(an_interactive(16, 8, 2))
    assert machine.step().preempted == []
    assert job in machine.composer.running


def test_pins_are_released_one_at_a_time_after_background_has_left() -> None:
    machine = Machine(a_composer(32, sharing=True))
    tree = machine.composer.memory.tree
    for name, text in (("first", 1), ("second", 2)):
        machine.composer.memory.pin(Pin(name, [text] * 8, "", BACKGROUND))
        machine.submit(a_state(Job(9, 1, 1, 1, text, BACKGROUND), text))
        machine.step()
    job = a_background(3, 9, 5, text=3)
    machine.submit(job)
    machine.step()
    assert tree.pinned == 4
    machine.submit(an_interactive(20, 2, 9))
    assert machine.step().preempted == [job]
    assert list(tree.lost) == ["first"]
    assert tree.pinned == 2


def test_a_pin_does_not_yield_to_another_of_its_kind_while_something_runs() -> None:
    machine = Machine(a_composer(32, sharing=True))
    machine.composer.memory.pin(Pin("group", [1] * 16, "", BACKGROUND))
    machine.submit(a_state(Job(17, 8, 8, 8, 1, BACKGROUND), 0))
    machine.step()
    machine.submit(a_state(Job(16, 1, 1, 1, 2, BACKGROUND), 1))
    while not machine.idle:
        assert not machine.composer.memory.tree.lost or len(machine.composer.running) == 1
        machine.step()
    assert list(machine.composer.memory.tree.lost) == ["group"]


def seconds(work: StepWork) -> float:
    """A machine's time of a step."""
    coefficients = (5e-3, 2e-4, 2e-5, 1e-8, 1e-4, 1e-7)
    return sum(c * a for c, a in zip(coefficients, amounts(work), strict=True))


def a_loaded_machine(step_tokens: int = 256, interactive: int = 4) -> Machine:
    """Interactive sequences decode, and background work waits for more than there is."""
    machine = Machine(a_composer(step_tokens, pages=4096, max_running=256))
    machine.submit(*(an_interactive(9, 400, number) for number in range(interactive)))
    machine.submit(*(a_background(40, 30, number) for number in range(10, 90)))
    return machine


def know_the_cost(machine: Machine) -> None:
    """Observe steps of every kind, as of a machine that has run for long."""
    for number in range(4 * MIN_STEPS):
        rows, tokens = number % 8, 30 * (number % 5)
        work = StepWork(tokens, tokens * 20, rows, rows * 50)
        machine.composer.background.cost.observe(work, seconds(work))


def others_of(plan: StepPlan) -> StepWork:
    """The work of a step that is not background's."""
    return work_of(chunk for chunk in plan.chunks if not chunk.sequence.background)


def takes_in(plan: StepPlan) -> bool:
    """Whether a step has background work."""
    return any(chunk.sequence.background for chunk in plan.chunks)


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.tuples(st.integers(0, 80), st.integers(1, 60), st.integers(1, 60)), max_size=8),
    st.sampled_from([1.02, 1.1, 1.5]),
)
def test_steps_with_others_stay_within_the_factor_on_average(
    arrivals: list[tuple[int, int, int]], factor: float
) -> None:
    machine = a_loaded_machine()
    background = BackgroundWork(256, PAGE_TOKENS, factor)
    machine.composer.background = background
    know_the_cost(machine)
    saved_s = most_s = 0.0
    for step in range(100):
        for number, (at, prompt, length) in enumerate(arrivals, 100):
            if at == step:
                machine.submit(an_interactive(prompt, length, number))
        due = background.due
        plan = machine.step()
        others = others_of(plan)
        added_s = seconds(work_of(plan.chunks)) - seconds(others)
        if others.prompt_tokens:
            assert due or not takes_in(plan)
        elif others.sequences and not due:
            saved_s += (factor - 1) * seconds(others)
            most_s = max(most_s, SAVED_STEPS * (factor - 1) * seconds(others))
        if not due:
            saved_s -= added_s
        assert saved_s >= -0.02 * seconds(others) * (step + 1)  # what the model is off
        saved_s = min(saved_s, most_s)


def mean_open_step_s(factor: float | None) -> float:
    """Of steps with requests that come by the clock; `factor`: with background work, too."""
    machine = Machine(a_composer(512, pages=4096, max_running=256), checked=False)
    know_the_cost(machine)
    if factor is not None:
        machine.composer.background._factor = factor
        machine.submit(*(a_background(40, 200, number) for number in range(100_000, 100_080)))
    now_s, came, times = 0.0, 0, list[float]()
    for step in range(900):
        while came < now_s * 100:
            machine.submit(an_interactive(1, 50, came))
            came += 1
        plan = machine.step()
        now_s += seconds(work_of(plan.chunks))
        if step >= 300 and others_of(plan).sequences:
            times.append(seconds(work_of(plan.chunks)))
    return sum(times) / len(times)


@pytest.mark.parametrize("factor", [1.05, 1.2])
def test_the_work_that_gathers_in_longer_steps_is_within_the_factor(factor: float) -> None:
    alone_s = mean_open_step_s(None)
    assert 1.6 < alone_s / seconds(StepWork(0, 0, 0, 0)) < 2.6  # about half of it gathers
    ratio = mean_open_step_s(factor) / alone_s
    assert (1 + factor) / 2 < ratio < 1.01 * factor


def test_what_a_page_takes_is_saved_over_several_steps() -> None:
    machine = a_loaded_machine(interactive=1)
    machine.submit(an_interactive(9, 400, 9))
    know_the_cost(machine)
    background = machine.composer.background
    waited, taken = 0, list[int]()
    page_s = seconds(StepWork(PAGE_TOKENS, 8, 0, 0)) - seconds(StepWork(0, 0, 0, 0))
    background._factor = 1 + page_s / seconds(StepWork(0, 0, 2, 20)) / 5
    for _ in range(60):
        assert not background.due
        took = takes_in(machine.step())
        waited = 0 if took else waited + 1
        taken.append(took)
    assert 60 / 8 < sum(taken) < 60 / 3


@pytest.mark.parametrize("alone_s", [0.0, 2 * RECENT_S])
def test_background_alone_is_limited_while_others_come(alone_s: float) -> None:
    machine = Machine(a_composer(1024, pages=4096, max_running=256))
    machine.submit(an_interactive(9, 3, 0))
    know_the_cost(machine)
    machine.step()
    decoding_s = seconds(others_of(machine.step()))
    machine.submit(*(a_background(40, 30, number) for number in range(10, 90)))
    background = machine.composer.background
    while others_of(machine.step()).sequences:
        assert not background.limited_alone
    background._alone_s = alone_s
    plan = machine.step()
    limit_s = decoding_s * (1 + ALONE_FACTOR * (FACTOR - 1))
    if alone_s:
        assert sum(chunk.length for chunk in plan.chunks) == 1024
    else:
        assert 0.8 * limit_s < seconds(work_of(plan.chunks)) < 1.05 * limit_s
    assert background.limited_alone == (not alone_s)
    machine.submit(an_interactive(9, 3, 1))
    machine.step()
    assert not background.limited_alone


def test_background_gets_a_fixed_small_share_while_the_cost_is_unknown() -> None:
    machine = a_loaded_machine(step_tokens=128)
    for _ in range(50):
        plan = machine.step()
        assert sum(c.length for c in plan.chunks if c.sequence.background) <= 128 / 32


def test_background_runs_again_after_a_fixed_number_of_steps_however_dear_it_is() -> None:
    machine = a_loaded_machine(step_tokens=64)
    background = machine.composer.background
    for _ in range(MIN_STEPS):
        background.cost.observe(StepWork(0, 0, 4, 100), 1.0)
        background.cost.observe(StepWork(4, 10, 4, 100), 100.0)
        background.cost.observe(StepWork(0, 0, 5, 100), 100.0)
    plans = [machine.step() for _ in range(5 * MAX_HELD_STEPS)]
    took = [sum(c.length for c in plan.chunks if c.sequence.background) for plan in plans]
    for first in range(len(took) - MAX_HELD_STEPS):
        assert any(took[first : first + MAX_HELD_STEPS])


def test_prompts_that_fill_every_step_do_not_starve_background() -> None:
    machine = Machine(a_composer(16, pages=4096, max_running=64))
    machine.submit(a_background(2, 4, 0))
    machine.step()
    machine.submit(*(an_interactive(30, 1, number) for number in range(1, 400)))
    for _ in range(6 * MAX_HELD_STEPS):
        machine.step()
    assert not machine.composer._background_running


def test_background_alone_takes_the_whole_step() -> None:
    machine = Machine(a_composer(64, pages=64))
    machine.submit(*(a_background(30, 4, number) for number in range(4)))
    assert sum(chunk.length for chunk in machine.step().chunks) == 64


@pytest.mark.parametrize("preempt_first", [0, BACKGROUND])
def test_more_sequences_than_a_step_has_tokens_take_turns(preempt_first: int) -> None:
    machine = Machine(a_composer(8, pages=256, max_running=40), pipelined=True)
    work = [Job(3, 6, 6, 6, preempt_first=preempt_first) for _ in range(40)]
    states = [a_state(job, number) for number, job in enumerate(work)]
    machine.submit(*states)
    most = 0
    while not machine.idle:
        machine.step()
        most = max(most, len(machine.composer.running))
    assert all(state.generated == 6 for state in states)
    assert most > 8


def test_the_longest_left_out_decodes_first() -> None:
    machine = Machine(a_composer(4, pages=256, max_running=8))
    states = [an_interactive(1, 12, number) for number in range(8)]
    for state in states:
        machine.submit(state)
    for _ in range(12):
        machine.step()
    generated = [state.generated for state in states]
    assert max(generated) - min(generated) <= 2


@pytest.mark.parametrize("costs", [SWAP, RECOMPUTE])
def test_pin_yields_once_the_last_sequence_has_become_background_and_ended(
    costs: RestoreCosts,
) -> None:
    """The preempted sequence did not fit next to it and the pin, which outranks it."""
    composer = a_composer(4, costs=costs, sharing=True, max_running=None, pin_share=0.5)
    machine = Machine(composer, pipelined=True)
    preempted = a_state(Job(22, 7, 7, 1, text=1, preempt_first=1), 0)
    last = a_state(Job(17, 3, 1, 3), 1)
    machine.submit(preempted, length=1)
    for step in range(40):
        if step == 3:
            composer.memory.pin(Pin("x", [0] * 4, "", 0))
        elif step == 4:
            machine.submit(last, length=3)
        elif last.generated == last.max_tokens - 1 and not last.done:
            last.preempt_first = 2
            composer.order_changed()
        machine.step()
    assert (last.done, preempted.done) == (True, True)
