"""The step loop with background work and pins, on a small model."""

from collections.abc import Callable
from random import Random

import pytest

from engine.protocol import BACKGROUND, Pin, Revise, Sampling, SetMode, Unpin
from engine.step.commands import RefusePins, Reset, Start, Stop


def lines(a_sequence: Callable, count: int, prefix: int = 0, **fields: object) -> list:
    """The sequences of a job, with a prefix in common."""
    fields = {"preempt_first": BACKGROUND, "max_tokens": 10, "reserve": 4, **fields}
    return [
        a_sequence(f"line{n}", [*([7] * prefix), *range(n, n + 5)], **fields) for n in range(count)
    ]


def test_more_sequences_than_a_step_has_tokens_get_the_same_answers(
    a_run: Callable, a_sequence: Callable
) -> None:
    sequences = [a_sequence(f"s{n}", range(n, n + 4), max_tokens=8) for n in range(30)]
    crowded = a_run(pages=200, step_tokens=6, max_running=30)
    assert crowded.all(sequences) == a_run(pages=200).all(sequences)
    assert max(step.running - step.suspended for step in crowded.steps) > 6


@pytest.mark.parametrize("pages", [14, 64])
@pytest.mark.parametrize("sharing", [False, True])
def test_background_and_others_get_the_answers_that_each_gets_alone(
    pages: int, sharing: bool, a_run: Callable, a_sequence: Callable
) -> None:
    job = lines(a_sequence, 8, prefix=9)
    others = [a_sequence(f"s{n}", range(n, n + 9), max_tokens=12, reserve=5) for n in range(4)]
    run = a_run(pages=pages, step_tokens=16, sharing=sharing)
    run.submit(job)
    run.until(lambda run: run.tokens("line0"))
    together = run.all(others)
    run.until(lambda run: len(run.finishes) == 12)
    together |= {sequence.id: run.tokens(sequence.id) for sequence in job}
    alone = a_run(sharing=False)
    assert together == alone.all([*job, *others])


def test_a_held_back_sequence_samples_as_if_it_were_not(
    a_run: Callable, a_sequence: Callable
) -> None:
    sampling = Sampling(temperature=1.0, seed=5, frequency_penalty=0.7)
    job = lines(a_sequence, 6, max_tokens=100, sampling=sampling)
    others = [a_sequence(f"s{n}", range(n, n + 9), max_tokens=40) for n in range(2)]
    run = a_run(step_tokens=16)
    run.submit(job)
    run.until(lambda run: run.tokens("line5"))
    run.submit(others)
    run.until(lambda run: len(run.finishes) == 8)
    assert run.loop.stats.background_held
    apart = a_run().all(job)
    assert {sequence.id: run.tokens(sequence.id) for sequence in job} == apart


def test_a_lost_pin_is_reported_even_if_no_step_runs(a_run: Callable) -> None:
    run = a_run(sharing=True, pin_share=0.25)
    run.loop.put(Pin("large", [1] * 200))
    run.until(lambda run: run.unpinned == ["large"])
    run.loop.put(RefusePins(("invalid",)))
    run.until(lambda run: run.unpinned == ["large", "invalid"])
    assert run.loop.stats.steps == 0
    assert (run.loop.stats.pins_made, run.loop.stats.pins_lost) == (1, 2)


def test_a_pinned_prefix_is_computed_once_and_stays_for_later_members(
    a_run: Callable, a_sequence: Callable
) -> None:
    run = a_run(pages=24, sharing=True)
    first, *rest = lines(a_sequence, 4, prefix=20)
    run.loop.put(Start([first], (Pin("group", [7] * 20, "", BACKGROUND),)))
    run.until(lambda run: run.finishes)
    filler = a_sequence("filler", range(40, 80), max_tokens=5, preempt_first=BACKGROUND)
    run.all([filler])  # would evict the prefix
    assert run.steps[-1].kv.pinned == 5
    before = run.computed
    run.all(rest)
    assert run.computed - before <= 3 * (5 + 10)
    run.loop.put(Unpin(["group"]), Pin("too large", [1] * 200))
    run.until(lambda run: run.unpinned)
    assert run.unpinned == ["too large"]
    assert run.steps[-1].kv.pinned == 0


def test_released_pins_show_in_the_memory_though_no_step_runs(
    a_run: Callable, a_sequence: Callable
) -> None:
    run = a_run(sharing=True)
    run.loop.put(Start(lines(a_sequence, 1, prefix=20), (Pin("group", [7] * 20, "", BACKGROUND),)))
    run.until(lambda run: run.finishes)
    assert run.steps[-1].kv.pinned == 5
    run.loop.put(Unpin(["group"]))
    run.until(lambda run: not run.steps[-1].kv.pinned)


def test_interactive_sequences_take_the_memory_of_pins_and_their_owner_hears_of_it(
    a_run: Callable, a_sequence: Callable
) -> None:
    run = a_run(pages=16, sharing=True)
    run.loop.put(
        Start(
            lines(a_sequence, 1, prefix=20),
            (Pin("group", [7] * 20, "", BACKGROUND),),
        )
    )
    run.until(lambda run: run.finishes)
    run.all([a_sequence("large", range(40), max_tokens=20, reserve=20)])
    assert run.unpinned == ["group"]
    assert run.steps[-1].kv.pinned == 0


def test_pins_end_with_their_session_unreported_and_with_its_connection_reported(
    a_run: Callable, a_sequence: Callable
) -> None:
    run = a_run(sharing=True)
    pin = Pin("group", [7] * 20)
    run.loop.put(pin, Reset(), pin, Stop(None, "no reader"))
    run.until(lambda run: run.unpinned)
    run.all([a_sequence("s")])
    assert run.unpinned == ["group"]
    assert run.steps[-1].kv.pinned == 0


def test_a_pin_without_sharing_has_no_effect_and_is_not_lost(
    a_run: Callable, a_sequence: Callable
) -> None:
    run = a_run(sharing=False, pin_share=0.1)
    run.all(lines(a_sequence, 3, prefix=20), Pin("group", [7] * 20))
    assert not run.unpinned
    assert run.steps[-1].kv.free == run.steps[-1].kv.pages


def test_a_pin_outlasts_a_change_of_mode(a_run: Callable, a_sequence: Callable) -> None:
    run = a_run(sharing=True)
    run.loop.put(Pin("group", [7] * 20))
    job = lines(a_sequence, 3, prefix=20)
    run.all(job[:1])
    run.loop.put(SetMode("lockstep"))
    run.all(job[1:2])
    run.loop.put(SetMode("continuous"))
    before = run.computed
    run.all(job[2:])
    assert run.computed - before <= 5 + 10
    assert run.steps[-1].kv.pinned == 5


@pytest.mark.parametrize("seed", range(3))
def test_random_pins_and_lanes_leave_every_page_free(
    seed: int, a_run: Callable, a_sequence: Callable
) -> None:
    random = Random(seed)
    run = a_run(pages=20, step_tokens=9, sharing=True, pin_share=0.5, max_running=20)
    names = [f"s{number}" for number in range(40)]
    for name in names:
        tokens = random.randrange(1, 40)
        prompt = [random.randrange(2)] * random.randrange(1, 40)
        rank = random.choice([0, 0, 1, 2, 3])
        started = a_sequence(
            name, prompt, max_tokens=tokens, reserve=random.randrange(1, tokens + 1),
            preempt_first=rank,
        )  # fmt: skip
        pin = Pin(random.choice("abc"), [random.randrange(2)] * 30, "", random.randrange(4))
        run.loop.put(Start([started], (pin,) if random.random() < 0.4 else ()))
        if random.random() < 0.2:
            run.loop.put(Stop([random.choice(names)]))
        if random.random() < 0.3:
            run.loop.put(Revise({}, {random.choice(names): random.randrange(4)}))
        if random.random() < 0.2:
            run.loop.put(Unpin([random.choice("abc")]))
    run.until(lambda run: len(run.finishes) == len(names))
    run.loop.put(Unpin(list("abc")), Start([a_sequence("last")]))
    run.until(lambda run: "last" in run.finishes)
    assert run.steps[-1].kv.free == 20
    assert run.steps[-1].kv.pinned == 0
