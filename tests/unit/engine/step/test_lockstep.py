"""Static batches: started, padded and ended together, split if memory runs out."""

from hypothesis import given
from hypothesis import strategies as st

from engine.kv.host import HostTier, RestoreCosts
from engine.kv.pages import PagePool
from engine.step.composer import StepPlan
from engine.step.lockstep import LockstepComposer
from engine.step.memory import KvMemory
from engine.step.sequence import SequenceState

PAGES, PAGE_TOKENS = 8, 4


def a_member(name: str, prompt: int = 3, length: int = 2, arrival: int = 0) -> SequenceState:
    return SequenceState(name, arrival, [7] * prompt, prompt, length, length, length)


def a_composer(*batches: list[SequenceState], step_tokens: int = 64) -> LockstepComposer:
    memory = KvMemory(PagePool(PAGES, PAGE_TOKENS), HostTier(0, RestoreCosts(1, 0)))
    composer = LockstepComposer(memory, step_tokens)
    for batch in batches:
        composer.add(batch)
    return composer


def settle(plan: StepPlan, composer: LockstepComposer) -> None:
    for chunk in plan.chunks:
        sequence = chunk.sequence
        sequence.in_flight -= chunk.samples_token
        if chunk.samples_token:
            sequence.tokens.append(1)
            if not sequence.done and sequence.generated == sequence.max_tokens:
                sequence.done = True
                composer.ended(sequence)


def finish_steps(composer: LockstepComposer, *, pipelined: bool = False) -> dict[str, int]:
    """Run to the end; the step after which each sequence left."""
    times: dict[str, int] = {}
    in_flight, step = None, 0
    while not composer.idle or in_flight:
        plan = composer.compose()
        composer.check()
        settled, in_flight = (
            (in_flight, plan if plan.chunks else None) if pipelined else (plan, None)
        )
        if settled:
            step += bool(settled.chunks)
            settle(settled, composer)
        for sequence in composer.take_finished():
            times[sequence.id] = step
        composer.check()
        assert step < 1000
    return times


def test_a_batch_leaves_when_its_last_answer_ends() -> None:
    batch = [a_member("short", length=1), a_member("long", length=6)]
    assert finish_steps(a_composer(batch)) == {"short": 6, "long": 6}


def test_the_next_batch_starts_when_the_previous_one_has_left() -> None:
    times = finish_steps(a_composer([a_member("a", length=3)], [a_member("b", length=2)]))
    assert times == {"a": 3, "b": 5}


def test_prompts_are_padded_to_the_longest() -> None:
    batch = [a_member("short", prompt=2), a_member("long", prompt=9)]
    plan = a_composer(batch).compose()
    assert [chunk.length for chunk in plan.chunks] == [9, 9]
    assert [sequence.padding for sequence in batch] == [7, 0]


def test_an_ended_answer_is_computed_until_the_others_end() -> None:
    short, long = a_member("short", length=1), a_member("long", length=5)
    composer = a_composer([short, long])
    for _ in range(3):
        plan = composer.compose()
        settle(plan, composer)
    assert {chunk.sequence for chunk in plan.chunks} == {short, long}
    [chunk] = [chunk for chunk in plan.chunks if chunk.sequence is short]
    assert chunk.start - short.padding == 2  # the end of its answer


def test_a_batch_too_large_for_memory_is_split_before_it_starts() -> None:
    batch = [a_member(str(number), prompt=7, length=1) for number in range(8)]
    composer = a_composer(batch)
    composer.compose()
    assert len(composer.running) == 4
    assert [len(waiting) for waiting in composer.batches] == [4]


def test_a_batch_that_runs_out_of_memory_is_split_in_two_halves_that_keep_their_tokens() -> None:
    batch = [a_member(str(number), prompt=3, length=12) for number in range(4)]
    composer = a_composer(batch)
    while not (plan := composer.compose()).preempted:
        settle(plan, composer)
    assert plan.preempted == batch
    assert [[s.id for s in half] for half in composer.batches] == [["0", "1"], ["2", "3"]]
    assert {sequence.generated for sequence in batch} == {6}
    assert len(finish_steps(composer)) == 4


def test_a_removed_member_lets_the_ended_ones_leave() -> None:
    short, long = a_member("short", length=1), a_member("long", length=9)
    composer = a_composer([short, long])
    settle(composer.compose(), composer)
    composer.remove(long)
    assert composer.take_finished() == [short]
    assert composer.idle


@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 20), st.integers(1, 12)), min_size=1, max_size=6),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 64),
    st.booleans(),
)
def test_every_batch_comes_to_its_end(
    work: list[list[tuple[int, int]]], step_tokens: int, pipelined: bool
) -> None:
    batches = [
        [a_member(f"{row}.{place}", *sizes) for place, sizes in enumerate(batch)]
        for row, batch in enumerate(work)
    ]
    composer = a_composer(*batches, step_tokens=step_tokens)
    times = finish_steps(composer, pipelined=pipelined)
    assert times.keys() == {sequence.id for batch in batches for sequence in batch}
    assert composer.memory.free == PAGES
    for batch in batches:
        for sequence in batch:
            assert sequence.generated >= sequence.max_tokens
