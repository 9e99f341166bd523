"""The composer against its invariants: capacity, order, progress."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.kv.host import HostTier, RestoreCosts, SwappedPages
from engine.kv.pages import PagePool
from engine.step.chunks import StepPlan
from engine.step.composer import Composer
from engine.step.memory import KvMemory
from engine.step.sequence import SequenceState

PAGES, PAGE_TOKENS = 8, 4
CAPACITY = PAGES * PAGE_TOKENS
SWAP, RECOMPUTE = RestoreCosts(0.0, 1.0), RestoreCosts(1.0, 0.0)


@dataclass(frozen=True)
class SequenceSpec:
    """A sequence, and the length at which it stops."""

    prompt: int
    max_tokens: int
    reserve: int
    length: int
    text: int = 0


@st.composite
def jobs(draw: st.DrawFn) -> SequenceSpec:
    prompt = draw(st.integers(1, CAPACITY - 1))
    max_tokens = draw(st.integers(1, CAPACITY - prompt))
    length, reserve = draw(st.integers(1, max_tokens)), draw(st.integers(1, max_tokens))
    return SequenceSpec(prompt, max_tokens, reserve, length, draw(st.integers(0, 2)))


def waiting(job: SequenceSpec, arrival: int) -> SequenceState:
    return SequenceState(
        id=f"s{arrival}",
        arrival=arrival,
        tokens=[job.text] * job.prompt,
        prompt_tokens=job.prompt,
        max_tokens=job.max_tokens,
        reserved=job.reserve,
        expected=job.reserve,
    )


def a_composer(
    sequences: list[SequenceState],
    step_tokens: int = 16,
    *,
    costs: RestoreCosts = RECOMPUTE,
    sharing: bool = False,
    max_running: int | None = None,
) -> Composer:
    memory = KvMemory(PagePool(PAGES, PAGE_TOKENS), HostTier(PAGES, costs), sharing=sharing)
    composer = Composer(memory, step_tokens, max_running)
    composer.add(sequences)
    return composer


def settle(composer: Composer, plan: StepPlan, done: Callable[[SequenceState], bool]) -> int:
    """Simulate the run of a plan; the number of generated tokens."""
    generated = 0
    for chunk in plan.chunks:
        sequence = chunk.sequence
        sequence.in_flight -= chunk.samples_token
        if chunk.samples_token and not sequence.done:
            sequence.tokens.append(0)
            generated += 1
            if done(sequence):
                sequence.done = True
                composer.ended(sequence)
    return generated


def drained(composer: Composer) -> bool:
    """Whether no sequence is left and all pages are allocatable."""
    return composer.idle and composer.memory.free == PAGES and not composer.memory.host.used


@given(
    st.lists(jobs(), min_size=1, max_size=8),
    st.integers(1, 40),
    st.booleans(),
    st.booleans(),
    st.sampled_from([SWAP, RECOMPUTE]),
)
def test_all_finish_within_capacity_for_any_prediction(
    work: list[SequenceSpec], step_tokens: int, pipelined: bool, sharing: bool, costs: RestoreCosts
) -> None:
    lengths = {f"s{number}": job.length for number, job in enumerate(work)}
    sequences = [waiting(job, number) for number, job in enumerate(work)]
    composer = a_composer(sequences, step_tokens, costs=costs, sharing=sharing)
    generated, steps, in_flight = 0, 0, None
    while not composer.idle:
        plan = composer.compose()
        composer.check()
        assert sum(chunk.length for chunk in plan.chunks) <= step_tokens
        assert all(chunk.length > 0 for chunk in plan.chunks)
        for swapped, _ in plan.copies.swap_out:
            swapped.content = ...  # type: ignore[assignment]
        assert all(swapped.content is ... for swapped, _ in plan.copies.swap_in)
        settled, in_flight = (in_flight, plan) if pipelined else (plan, None)
        assert plan.chunks or settled, "no progress"
        if settled:
            generated += settle(composer, settled, lambda s: s.generated == lengths[s.id])
        composer.check()
        steps += 1
        assert steps < 20_000, "no end"
    assert generated == sum(lengths.values())
    assert drained(composer)


@given(st.lists(jobs(), min_size=1, max_size=8), st.integers(1, 40))
def test_every_decoding_sequence_decodes_in_every_step(
    work: list[SequenceSpec], step_tokens: int
) -> None:
    composer = a_composer([waiting(job, number) for number, job in enumerate(work)], step_tokens)
    for _ in range(30):
        decoding = {s for s in composer.running if s.uncomputed == 1}
        plan = composer.compose()
        assert decoding - set(plan.preempted) <= {chunk.sequence for chunk in plan.chunks}
        lengths = [chunk.length for chunk in plan.chunks]
        assert lengths == sorted(lengths, key=lambda length: length > 1)
        settle(composer, plan, lambda s: s.generated == s.max_tokens)


@given(st.lists(jobs(), min_size=1, max_size=8))
def test_new_sequences_start_in_order_and_never_before_a_preempted_one(
    work: list[SequenceSpec],
) -> None:
    sequences = [waiting(job, number) for number, job in enumerate(work)]
    composer = a_composer(sequences)
    started: list[SequenceState] = []
    while not composer.idle:
        had_preempted = bool(composer.preempted)
        plan = composer.compose()
        started_now = [s for s in composer.running if s not in started]
        assert not (started_now and had_preempted and composer.preempted)
        started += started_now
        settle(composer, plan, lambda s: s.generated == s.max_tokens)
    assert started == sequences


@given(st.lists(st.tuples(jobs(), st.integers(1, 50)), min_size=2, max_size=8))
def test_the_preempted_sequence_has_the_longest_revised_remainder(
    work: list[tuple[SequenceSpec, int]],
) -> None:
    sequences = [waiting(job, number) for number, (job, _) in enumerate(work)]
    for sequence, (_, beyond) in zip(sequences, work, strict=True):
        sequence.expected = CAPACITY + beyond
    composer = a_composer(sequences)
    while not composer.idle:
        candidates = list(composer.running)
        plan = composer.compose()
        for victim in plan.preempted:
            assert victim is max(candidates, key=lambda s: (s.expected_remaining, s.arrival))
            candidates.remove(victim)
        settle(composer, plan, lambda s: s.generated == s.max_tokens)


def run_until_preempted(composer: Composer) -> list[SequenceState]:
    plan = composer.compose()
    while not plan.preempted:
        settle(composer, plan, lambda s: s.generated == s.max_tokens)
        plan = composer.compose()
    settle(composer, plan, lambda s: s.generated == s.max_tokens)
    return plan.preempted


def test_a_reservation_is_doubled_where_pages_allow() -> None:
    sequence = waiting(SequenceSpec(prompt=4, max_tokens=24, reserve=4, length=24), 0)
    composer = a_composer([sequence])
    while sequence.generated < 5:
        settle(composer, composer.compose(), lambda _: False)
    composer.compose()
    assert sequence.reserved == 8
    assert composer.extensions == 1


def test_a_sequence_is_not_started_on_pages_reserved_for_another() -> None:
    first = waiting(SequenceSpec(prompt=4, max_tokens=28, reserve=20, length=28), 0)
    second = waiting(SequenceSpec(prompt=4, max_tokens=20, reserve=20, length=20), 1)
    composer = a_composer([first, second])
    composer.compose()
    assert composer.running == [first]
    assert composer.memory.free == PAGES - 1


def test_a_sequence_starts_on_pages_that_it_frees_before_another_needs_them() -> None:
    first = waiting(SequenceSpec(prompt=4, max_tokens=24, reserve=24, length=24), 0)
    second = waiting(SequenceSpec(prompt=4, max_tokens=8, reserve=8, length=8), 1)
    composer = a_composer([first, second])
    while not composer.idle:
        plan = composer.compose()
        assert second in composer.running or second.done
        assert not plan.preempted
        settle(composer, plan, lambda s: s.generated == s.max_tokens)


def test_a_sequence_that_does_not_fit_blocks_later_ones() -> None:
    big = waiting(SequenceSpec(prompt=20, max_tokens=8, reserve=8, length=8), 0)
    bigger = waiting(SequenceSpec(prompt=16, max_tokens=8, reserve=8, length=8), 1)
    small = waiting(SequenceSpec(prompt=1, max_tokens=1, reserve=1, length=1), 2)
    composer = a_composer([big, bigger, small])
    composer.compose()
    assert composer.running == [big]


def test_a_revised_remainder_decides_which_is_preempted() -> None:
    jobs = [SequenceSpec(prompt=4, max_tokens=28, reserve=12, length=28) for _ in range(2)]
    first, second = (waiting(job, number) for number, job in enumerate(jobs))
    composer = a_composer([first, second])
    composer.compose()
    first.expected, second.expected = 28, 14
    assert run_until_preempted(composer) == [first]


@pytest.mark.parametrize("arrivals", [(0, 1), (1, 0)])
def test_of_equal_remainders_the_later_arrival_is_preempted(arrivals: tuple[int, int]) -> None:
    job = SequenceSpec(prompt=4, max_tokens=28, reserve=12, length=28)
    sequences = [waiting(job, arrival) for arrival in arrivals]
    composer = a_composer(sequences)
    [victim] = run_until_preempted(composer)
    assert victim.arrival == 1
    assert victim.reserved == 24


def test_a_removed_sequence_frees_its_pages_in_any_state() -> None:
    sequences = [waiting(SequenceSpec(4, 28, 12, 28), number) for number in range(3)]
    composer = a_composer(sequences)
    run_until_preempted(composer)
    for sequence in sequences:
        composer.remove(sequence)
        composer.check()
    assert drained(composer)


def test_a_swapped_sequence_resumes_where_it_was() -> None:
    sequences = [waiting(SequenceSpec(4, 28, 12, 28), number) for number in range(2)]
    composer = a_composer(sequences, costs=SWAP)
    [victim] = run_until_preempted(composer)
    swapped = victim.swapped
    assert isinstance(swapped, SwappedPages)
    computed = swapped.tokens
    swapped.content = ...  # type: ignore[assignment]
    while victim not in composer.running:
        plan = composer.compose()
        settle(composer, plan, lambda s: s.generated == s.max_tokens)
    assert victim.computed == computed + 1
    assert [pages for _, pages in plan.copies.swap_in] == [victim.pages[: swapped.pages]]


def test_a_full_host_tier_means_recomputing() -> None:
    sequences = [waiting(SequenceSpec(4, 28, 12, 28), number) for number in range(2)]
    composer = a_composer(sequences, costs=SWAP)
    composer.memory.host.pages = 1
    [victim] = run_until_preempted(composer)
    assert victim.swapped is None


def test_a_prompt_computed_in_the_same_step_is_not_recomputed() -> None:
    sequences = [waiting(SequenceSpec(9, 2, 2, 2), number) for number in range(2)]
    composer = a_composer(sequences, step_tokens=32, sharing=True)
    plan = composer.compose()
    assert [chunk.length for chunk in plan.chunks] == [1, 9]
    assert composer.memory.tree.shared == 2
    composer.check()


def test_a_sequence_that_fits_only_with_a_shared_prefix_starts_once_that_is_cached() -> None:
    sequences = [waiting(SequenceSpec(13, 4, 4, 4), number) for number in range(3)]
    composer = a_composer(sequences, step_tokens=32, sharing=True)
    assert [chunk.length for chunk in composer.compose().chunks] == [13]
    assert sorted(chunk.length for chunk in composer.compose().chunks) == [1, 1, 1]


def test_sequences_with_one_prefix_advance_through_it_together() -> None:
    sequences = [waiting(SequenceSpec(13, 2, 2, 2), number) for number in range(2)]
    composer = a_composer(sequences, step_tokens=8, sharing=True)
    computed = 0
    while not composer.idle:
        plan = composer.compose()
        computed += sum(chunk.length for chunk in plan.chunks)
        settle(composer, plan, lambda s: s.generated == s.max_tokens)
    assert computed == 13 + 1 + 2 * 1


def test_sequences_of_two_salts_share_nothing() -> None:
    sequences = [waiting(SequenceSpec(9, 2, 2, 2), number) for number in range(2)]
    sequences[1].salt = "another tenant"
    composer = a_composer(sequences, step_tokens=32, sharing=True)
    assert [chunk.length for chunk in composer.compose().chunks] == [9, 9]


def test_pins_are_released_if_nothing_could_run_otherwise() -> None:
    composer = a_composer([waiting(SequenceSpec(24, 1, 1, 1), 0)], sharing=True)
    composer.memory.tree.pin("group", "", [0] * 24)
    while not composer.idle:
        settle(composer, composer.compose(), lambda _: True)
    assert composer.memory.free == PAGES - 6
    composer.add([waiting(SequenceSpec(24, 8, 8, 8, text=1), 1)])
    while not composer.idle:
        settle(composer, composer.compose(), lambda s: s.generated == s.max_tokens)
    composer.check()


def test_all_resume_in_order_of_arrival_after_release_all() -> None:
    sequences = [waiting(SequenceSpec(4, 4, 4, 4), number) for number in range(3)]
    composer = a_composer(sequences)
    composer.compose()
    composer.release_all()
    assert composer.memory.pool.free == PAGES
    plan = composer.compose()
    assert [chunk.sequence for chunk in plan.chunks] == sequences


@st.composite
def ranked_jobs(draw: st.DrawFn) -> tuple[SequenceSpec, int]:
    return draw(jobs()), draw(st.integers(0, 2))


def ranked(work: list[tuple[SequenceSpec, int]]) -> list[SequenceState]:
    sequences = [waiting(job, number) for number, (job, _) in enumerate(work)]
    for sequence, (_, preempt_first) in zip(sequences, work, strict=True):
        sequence.preempt_first = preempt_first
    return sequences


@given(st.lists(ranked_jobs(), min_size=2, max_size=8), st.data())
def test_the_victim_has_the_highest_preempt_first_and_the_lowest_starts_first(
    work: list[tuple[SequenceSpec, int]], data: st.DataObject
) -> None:
    sequences = ranked(work)
    composer = a_composer(sequences)
    while not composer.idle:
        before = list(composer.running)
        queued = [*composer.preempted, *composer.waiting]
        plan = composer.compose()
        composer.check()
        for victim in plan.preempted:
            assert victim.preempt_first == max(s.preempt_first for s in before)
            before.remove(victim)
        started = [s for s in composer.running if s not in before]
        left = [s for s in queued if s not in started]
        assert all(s.preempt_first <= other.preempt_first for s in started for other in left)
        settle(composer, plan, lambda s: s.generated == s.max_tokens)
        if not composer.idle and data.draw(st.booleans()):
            revised = data.draw(st.sampled_from(sequences))
            revised.preempt_first = data.draw(st.integers(0, 2))
            composer.order_changed()
    assert drained(composer)


def test_a_newcomer_passes_preempted_sequences_of_a_higher_preempt_first() -> None:
    flood = [waiting(SequenceSpec(4, 20, 2, 20), number) for number in range(4)]
    composer = a_composer(flood)
    victims = run_until_preempted(composer)
    newcomer = waiting(SequenceSpec(4, 4, 4, 4), 9)
    for sequence in flood:
        sequence.preempt_first = 1
    composer.add([newcomer])
    plan = composer.compose()
    assert newcomer in composer.running
    assert set(victims) <= {*composer.preempted, *composer.running}
    settle(composer, plan, lambda _: False)


def test_a_newcomer_of_the_same_preempt_first_waits_behind_preempted_sequences() -> None:
    flood = [waiting(SequenceSpec(4, 20, 2, 20), number) for number in range(4)]
    composer = a_composer(flood)
    run_until_preempted(composer)
    newcomer = waiting(SequenceSpec(4, 4, 4, 4), 9)
    composer.add([newcomer])
    settle(composer, composer.compose(), lambda _: False)
    assert composer.preempted
    assert newcomer in composer.waiting


def test_what_is_promised_to_a_higher_preempt_first_keeps_no_newcomer_out() -> None:
    greedy = waiting(SequenceSpec(4, 28, 28, 28), 0)
    greedy.preempt_first = 1
    composer = a_composer([greedy])
    settle(composer, composer.compose(), lambda _: False)
    newcomer = waiting(SequenceSpec(4, 4, 4, 4), 1)
    composer.add([newcomer])
    composer.compose()
    assert composer.running == [greedy, newcomer]


def test_at_most_so_many_sequences_run() -> None:
    composer = a_composer([waiting(SequenceSpec(1, 3, 3, 3), n) for n in range(5)], max_running=2)
    while not composer.idle:
        plan = composer.compose()
        assert len(composer.running) <= 2
        settle(composer, plan, lambda s: s.generated == s.max_tokens)


def test_sequences_that_are_asked_for_are_preempted_before_the_next_step() -> None:
    sequences = [waiting(SequenceSpec(2, 6, 6, 6), number) for number in range(3)]
    composer = a_composer(sequences, max_running=2)
    settle(composer, composer.compose(), lambda _: False)
    first, second, newcomer = sequences
    first.preempt_first = second.preempt_first = 1
    composer.preempt([second, second, newcomer])
    plan = composer.compose()
    assert plan.preempted == [second]
    assert composer.running == [first, newcomer]
    settle(composer, plan, lambda s: s.generated == s.max_tokens)
    while not composer.idle:
        settle(composer, composer.compose(), lambda s: s.generated == s.max_tokens)
    assert [s.generated for s in sequences] == [6, 6, 6]
    assert drained(composer)


def test_prompts_of_a_lower_preempt_first_are_computed_first() -> None:
    flood = [waiting(SequenceSpec(6, 2, 2, 2), arrival) for arrival in range(3)]
    for sequence in flood:
        sequence.preempt_first = 1
    composer = a_composer(flood, step_tokens=4)
    composer.compose()
    late = waiting(SequenceSpec(3, 2, 2, 2), 3)
    composer.add([late])
    composer.compose()
    assert late.computed == late.prompt_tokens
    assert flood[1].computed < flood[1].prompt_tokens
