"""The composer against its invariants: capacity, order, progress."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.composer import Composer, Plan
from engine.kv.pages import PagePool
from engine.sequence import LiveSequence

PAGES, PAGE_TOKENS = 8, 4
CAPACITY = PAGES * PAGE_TOKENS


@dataclass(frozen=True)
class Job:
    """A sequence, and the length at which it will stop by itself."""

    prompt: int
    max_tokens: int
    reserve: int
    length: int


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    prompt = draw(st.integers(1, CAPACITY - 1))
    max_tokens = draw(st.integers(1, CAPACITY - prompt))
    length, reserve = draw(st.integers(1, max_tokens)), draw(st.integers(1, max_tokens))
    return Job(prompt, max_tokens, reserve, length)


def waiting(job: Job, arrival: int) -> LiveSequence:
    return LiveSequence(
        id=f"s{arrival}",
        arrival=arrival,
        tokens=[0] * job.prompt,
        prompt_tokens=job.prompt,
        max_tokens=job.max_tokens,
        reserved=job.reserve,
        expected=job.reserve,
    )


def a_composer(sequences: list[LiveSequence], step_tokens: int = 16) -> Composer:
    composer = Composer(PagePool(PAGES, PAGE_TOKENS), step_tokens)
    for sequence in sequences:
        composer.add(sequence)
    return composer


def settle(composer: Composer, plan: Plan, done: Callable[[LiveSequence], bool]) -> int:
    """Pretend the plan was run; how many tokens it generated."""
    generated = 0
    for chunk in plan.chunks:
        chunk.sequence.computed += chunk.length
        if not chunk.sequence.pending:
            chunk.sequence.tokens.append(0)
            generated += 1
            if done(chunk.sequence):
                composer.remove(chunk.sequence)
    return generated


@given(st.lists(jobs(), min_size=1, max_size=8), st.integers(1, 40))
def test_all_finish_within_capacity_whatever_was_predicted(
    work: list[Job], step_tokens: int
) -> None:
    lengths = {f"s{number}": job.length for number, job in enumerate(work)}
    composer = a_composer([waiting(job, number) for number, job in enumerate(work)], step_tokens)
    generated, steps = 0, 0
    while not composer.idle:
        plan = composer.compose()
        composer.check()
        assert 0 < sum(chunk.length for chunk in plan.chunks) <= step_tokens
        generated += settle(composer, plan, lambda s: s.generated == lengths[s.id])
        composer.check()
        steps += 1
        assert steps < 20_000, "no progress"
    assert generated == sum(lengths.values())
    assert composer.pool.free == PAGES


@given(st.lists(jobs(), min_size=1, max_size=8), st.integers(1, 40))
def test_every_decoding_sequence_decodes_in_every_step(work: list[Job], step_tokens: int) -> None:
    composer = a_composer([waiting(job, number) for number, job in enumerate(work)], step_tokens)
    for _ in range(30):
        plan = composer.compose()
        decoding = {s.id for s in composer.running if s.pending == 1}
        assert decoding <= {chunk.sequence.id for chunk in plan.chunks}
        lengths = [chunk.length for chunk in plan.chunks]
        assert lengths == sorted(lengths, key=lambda length: length > 1)
        settle(composer, plan, lambda s: s.generated == s.max_tokens)


@given(st.lists(jobs(), min_size=1, max_size=8))
def test_new_sequences_start_in_order_and_never_before_a_preempted_one(work: list[Job]) -> None:
    sequences = [waiting(job, number) for number, job in enumerate(work)]
    composer = a_composer(sequences)
    started: list[LiveSequence] = []
    while not composer.idle:
        held_back = bool(composer.preempted)
        plan = composer.compose()
        fresh = [s for s in composer.running if s not in started]
        assert not (fresh and held_back and composer.preempted)
        started += fresh
        settle(composer, plan, lambda s: s.generated == s.max_tokens)
    assert started == sequences


@given(st.lists(st.tuples(jobs(), st.integers(1, 50)), min_size=2, max_size=8))
def test_the_victim_has_the_longest_revised_remainder(work: list[tuple[Job, int]]) -> None:
    sequences = [waiting(job, number) for number, (job, _) in enumerate(work)]
    for sequence, (_, beyond) in zip(sequences, work, strict=True):
        sequence.expected = CAPACITY + beyond
    composer = a_composer(sequences)
    while not composer.idle:
        candidates = list(composer.running)
        plan = composer.compose()
        for victim in plan.preempted:
            assert victim is max(candidates, key=lambda s: (s.remainder, s.arrival))
            candidates.remove(victim)
        settle(composer, plan, lambda s: s.generated == s.max_tokens)


def run_until_preempted(composer: Composer) -> list[LiveSequence]:
    while not (plan := composer.compose()).preempted:
        settle(composer, plan, lambda s: s.generated == s.max_tokens)
    return plan.preempted


def test_a_reservation_is_doubled_where_pages_allow() -> None:
    sequence = waiting(Job(prompt=4, max_tokens=24, reserve=4, length=24), 0)
    composer = a_composer([sequence])
    while sequence.generated < 5:
        settle(composer, composer.compose(), lambda _: False)
    composer.compose()
    assert sequence.reserved == 10
    assert composer.extensions == 1


def test_a_sequence_is_not_started_on_pages_promised_to_another() -> None:
    first = waiting(Job(prompt=4, max_tokens=28, reserve=20, length=28), 0)
    second = waiting(Job(prompt=4, max_tokens=8, reserve=8, length=8), 1)
    composer = a_composer([first, second])
    composer.compose()
    assert composer.running == [first]
    assert composer.pool.free == PAGES - 1


def test_one_that_does_not_fit_holds_back_what_came_later() -> None:
    big = waiting(Job(prompt=20, max_tokens=8, reserve=8, length=8), 0)
    bigger = waiting(Job(prompt=16, max_tokens=8, reserve=8, length=8), 1)
    small = waiting(Job(prompt=1, max_tokens=1, reserve=1, length=1), 2)
    composer = a_composer([big, bigger, small])
    composer.compose()
    assert composer.running == [big]


def test_a_revised_remainder_decides_who_is_preempted() -> None:
    jobs = [Job(prompt=4, max_tokens=28, reserve=12, length=28) for _ in range(2)]
    first, second = (waiting(job, number) for number, job in enumerate(jobs))
    composer = a_composer([first, second])
    composer.compose()
    first.expected, second.expected = 28, 14
    assert run_until_preempted(composer) == [first]


@pytest.mark.parametrize("arrivals", [(0, 1), (1, 0)])
def test_of_equal_remainders_the_later_arrival_is_preempted(arrivals: tuple[int, int]) -> None:
    job = Job(prompt=4, max_tokens=28, reserve=12, length=28)
    sequences = [waiting(job, arrival) for arrival in arrivals]
    composer = a_composer(sequences)
    [victim] = run_until_preempted(composer)
    # the first in running order outgrew and doubled its reservation: it expects more than the other
    assert victim is sequences[0]
    assert victim.reserved == 26


def test_a_removed_sequence_returns_its_pages_wherever_it_was() -> None:
    sequences = [waiting(Job(4, 28, 12, 28), number) for number in range(3)]
    composer = a_composer(sequences)
    run_until_preempted(composer)
    for sequence in sequences:
        composer.remove(sequence)
        composer.check()
    assert composer.idle
    assert composer.pool.free == PAGES
