"""Static batches: started, padded and ended together, returned if memory runs out."""

from collections import Counter
from math import ceil, log2

from hypothesis import given
from hypothesis import strategies as st

from engine.kv.host import HostTier, RestoreCosts
from engine.kv.pages import PagePool
from engine.step.chunks import StepPlan
from engine.step.lockstep import LockstepComposer
from engine.step.memory import KvMemory
from engine.step.sequence import SequenceState
from gateway.scheduling.magnus.lockstep import halves_of

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
    """Run to the end, and halve what is returned; the step after which each sequence left."""
    times: dict[str, int] = {}
    returns: Counter[str] = Counter()
    in_flight, step = None, 0
    while not composer.idle or in_flight:
        plan = composer.compose()
        assert not (plan.chunks and plan.returned)
        assert not any(sequence.in_flight or sequence.padding for sequence in plan.returned)
        returns.update(sequence.id for sequence in plan.returned)
        for half in halves_of(plan.returned):
            composer.add(half)
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
    assert max(returns.values(), default=0) <= ceil(log2(max(len(times), 1)))
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


def until_returned(composer: LockstepComposer) -> list[SequenceState]:
    """Run until a batch is returned."""
    while not (plan := composer.compose()).returned:
        settle(plan, composer)
    return list(plan.returned)


def test_a_batch_too_large_for_memory_is_returned_before_it_starts() -> None:
    batch = [a_member(str(number), prompt=7, length=1) for number in range(8)]
    behind = [a_member("behind")]
    composer = a_composer(batch, behind)
    assert composer.compose().returned == batch
    assert {sequence.generated for sequence in batch} == {0}
    assert [chunk.sequence for chunk in composer.compose().chunks] == behind


def test_a_batch_that_runs_out_of_memory_is_returned_with_its_tokens_and_frees_its_pages() -> None:
    batch = [a_member(str(number), prompt=3, length=12) for number in range(4)]
    composer = a_composer(batch)
    assert until_returned(composer) == batch
    assert {sequence.generated for sequence in batch} == {6}
    assert (composer.idle, composer.memory.free) == (True, PAGES)
    for half in halves_of(batch):
        composer.add(half)
    assert len(finish_steps(composer)) == 4


def test_ended_answers_leave_when_the_others_are_returned() -> None:
    short = a_member("short", length=1)
    others = [a_member(name, length=12) for name in "abc"]
    composer = a_composer([short, *others])
    assert until_returned(composer) == others
    assert composer.take_finished() == [short]


def test_the_tokens_in_flight_are_awaited_before_a_batch_is_returned() -> None:
    batch = [a_member(str(number), prompt=3, length=12) for number in range(4)]
    composer = a_composer(batch)
    in_flight = composer.compose()
    while (plan := composer.compose()).chunks:
        settle(in_flight, composer)
        in_flight = plan
    assert not plan.returned
    settle(in_flight, composer)
    assert composer.compose().returned == batch
    assert {sequence.generated for sequence in batch} == {6}


def test_a_token_in_flight_may_end_a_batch_that_lacks_pages() -> None:
    batch = [a_member(str(number), prompt=3, length=6) for number in range(4)]
    assert finish_steps(a_composer(batch), pipelined=True) == dict.fromkeys("0123", 6)


def test_a_padded_sequence_left_alone_is_returned_and_fits_without_padding() -> None:
    short, long = a_member("short", prompt=2, length=26), a_member("long", prompt=12, length=1)
    composer = a_composer([short, long])
    assert until_returned(composer) == [short]
    assert composer.take_finished() == [long]
    composer.add([short])
    assert finish_steps(composer).keys() == {"short"}


def test_a_padded_sequence_whose_neighbour_was_cancelled_is_returned() -> None:
    short, long = a_member("short", prompt=2, length=26), a_member("long", prompt=12, length=9)
    composer = a_composer([short, long])
    settle(composer.compose(), composer)
    composer.remove(long)
    assert until_returned(composer) == [short]
    assert short.generated == 21


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
