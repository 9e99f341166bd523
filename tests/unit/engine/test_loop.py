"""The step loop: how sequences end, and what it does when a step fails."""

from collections.abc import Callable
from random import Random

import pytest
import torch

from engine.orders import Forget, Start, Stop
from engine.protocol import Revise, Sampling

UNKNOWN_TOKEN = 10**6


def test_a_stop_id_ends_a_sequence_and_is_not_among_its_tokens(
    a_run: Callable, a_sequence: Callable
) -> None:
    run = a_run()
    [free] = run.all([a_sequence("free")]).values()
    stopped = run.all([a_sequence("stopped", stop_ids=[free[4]])])["stopped"]
    assert stopped == free[: free.index(free[4])]
    assert (run.finishes["free"].reason, run.finishes["stopped"].reason) == ("length", "stop")


def test_max_tokens_counts_what_was_generated_elsewhere(
    a_run: Callable, a_sequence: Callable
) -> None:
    run = a_run()
    tokens = run.all([a_sequence("two", generated=[5] * 6), a_sequence("none", generated=[5] * 8)])
    assert [len(tokens["two"]), len(tokens["none"])] == [2, 0]
    assert run.finishes["none"].reason == "length"


def test_a_cancelled_sequence_returns_its_pages(a_run: Callable, a_sequence: Callable) -> None:
    run = a_run()
    run.loop.put(Start([a_sequence("long", max_tokens=200, reserve=200)]))
    run.until(lambda run: run.tokens("long"))
    run.loop.put(Stop(["long", "unknown"]))
    run.until(lambda run: run.finishes)
    assert run.finishes["long"].reason == "cancelled"
    assert run.steps[-1].kv.free == run.steps[-1].kv.pages
    assert run.loop.stats.cancelled == 1


def test_a_waiting_sequence_can_be_cancelled(a_run: Callable, a_sequence: Callable) -> None:
    run = a_run(pages=8)
    run.loop.put(Start([a_sequence(name, max_tokens=28, reserve=28) for name in "ab"]), Stop(["b"]))
    run.until(lambda run: len(run.finishes) == 2)
    assert run.finishes["b"].reason == "cancelled"
    assert not run.tokens("b")


def test_stopping_all_cancels_with_the_reason(a_run: Callable, a_sequence: Callable) -> None:
    run = a_run()
    sequences = [a_sequence(name, max_tokens=100) for name in "abc"]
    run.loop.put(Start(sequences), Stop(None, "nobody listens"))
    run.until(lambda run: len(run.finishes) == 3)
    assert {finish.message for finish in run.finishes.values()} == {"nobody listens"}


def test_forgotten_sequences_end_without_a_word(a_run: Callable, a_sequence: Callable) -> None:
    run = a_run()
    run.loop.put(Start([a_sequence("old", max_tokens=200)]), Forget())
    run.all([a_sequence("new")])
    assert list(run.finishes) == ["new"]
    assert not run.tokens("old")


def test_an_id_of_a_forgotten_session_is_free_again(a_run: Callable, a_sequence: Callable) -> None:
    run = a_run()
    run.loop.put(Start([a_sequence("s", max_tokens=200)]), Forget())
    assert len(run.all([a_sequence("s")])["s"]) == 8


def test_a_revised_sequence_is_the_one_preempted(a_run: Callable, a_sequence: Callable) -> None:
    run = a_run(pages=8)
    sequences = [a_sequence(name, max_tokens=28, reserve=12) for name in "ab"]
    run.all(sequences, Revise({"a": 500, "b": 1, "unknown": 3}))
    assert run.preempted[0] == "a"


def test_a_failing_step_ends_its_sequences_and_the_loop_goes_on(
    a_run: Callable, a_sequence: Callable
) -> None:
    run = a_run()
    alone = run.all([a_sequence("alone")])["alone"]
    run.all([a_sequence("beside"), a_sequence("poison", [UNKNOWN_TOKEN])])
    assert run.finishes["poison"].reason == run.finishes["beside"].reason == "error"
    assert run.finishes["poison"].message.startswith("IndexError")
    assert run.all([a_sequence("after")])["after"] == alone


def test_a_loop_whose_model_runs_nothing_any_more_dies(
    a_runner: Callable, a_run: Callable, a_sequence: Callable
) -> None:
    runner = a_runner()
    run = a_run(runner)
    runner._store.keys.clear()
    run.loop.put(Start([a_sequence()]))
    run.until(lambda run: run.deaths)
    run.loop.join(10)
    assert not run.loop.is_alive()
    run.composer.pool.give_back(set(range(64)) - set(run.composer.pool._free))


def test_scores_that_are_no_numbers_end_one_sequence_and_taint_no_other(
    a_runner: Callable, a_run: Callable, a_sequence: Callable
) -> None:
    runner = a_runner()
    clean = a_run(runner).all([a_sequence("s", max_tokens=40)])["s"]
    with torch.no_grad():
        runner.model.network.get_input_embeddings().weight[96] = torch.nan
    run = a_run(runner)
    beside = run.all([a_sequence("nan", [96] * 50), a_sequence("s", max_tokens=40)])["s"]
    assert run.finishes["nan"].reason == "error"
    assert beside == clean
    assert run.all([a_sequence("reused", max_tokens=40)])["reused"] == clean


def test_a_seed_draws_the_same_alone_beside_others_and_after_preemption(
    a_run: Callable, a_sequence: Callable
) -> None:
    random = Random(3)
    sequences = [
        a_sequence(
            f"s{seed}",
            [random.randrange(97) for _ in range(9)],
            max_tokens=20,
            reserve=2,
            sampling=Sampling(temperature=1.0, top_p=0.9, seed=seed),
        )
        for seed in range(6)
    ]
    tight = a_run(pages=14, step_tokens=8)
    together = tight.all(sequences)
    assert tight.preempted
    assert together == {s.id: a_run().all([s])[s.id] for s in sequences}
    assert len({tuple(tokens) for tokens in together.values()}) == 6


@pytest.mark.parametrize("seed", range(3))
def test_random_orders_leave_every_page_free(
    seed: int, a_run: Callable, a_sequence: Callable
) -> None:
    random = Random(seed)
    run = a_run(pages=20, step_tokens=9)
    names = [f"s{number}" for number in range(40)]
    for name in names:
        tokens = random.randrange(1, 40)
        reserve = random.randrange(1, tokens + 1)
        prompt = [1] * random.randrange(1, 40)
        run.loop.put(Start([a_sequence(name, prompt, max_tokens=tokens, reserve=reserve)]))
        if random.random() < 0.3:
            run.loop.put(Stop([random.choice(names)]))
        if random.random() < 0.3:
            run.loop.put(Revise({random.choice(names): random.randrange(50)}))
    run.until(lambda run: len(run.finishes) == len(names))
    assert run.steps[-1].kv.free == 20
    assert {finish.reason for finish in run.finishes.values()} == {"length", "cancelled"}


def test_steps_are_numbered_without_a_gap_and_counted(
    a_run: Callable, a_sequence: Callable
) -> None:
    run = a_run(step_tokens=4)
    run.all([a_sequence("s", range(10))])
    assert [step.number for step in run.steps] == list(range(1, len(run.steps) + 1))
    stats = run.loop.stats
    assert (stats.steps, stats.generated_tokens, stats.computed_tokens) == (10, 8, 17)
