"""The step loop: ends of sequences, and recovery from failed steps."""

from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
import torch

from engine.attention.reference import ReferenceAttention
from engine.loop import MAX_IDLE_TURNS
from engine.networks.interface import Packed
from engine.protocol import Pause, Pin, Preempt, Resume, Revise, Sampling, SetMode, StepWork
from engine.running.runner import Runner
from engine.step.commands import Reset, Start, Stop

INVALID_TOKEN = 10**6
VOCABULARY = 97


def test_a_stop_id_ends_a_sequence_and_is_not_among_its_tokens(
    a_run: Callable, a_sequence: Callable
) -> None:
    run = a_run()
    [free] = run.all([a_sequence("free")]).values()
    stopped = run.all([a_sequence("stopped", stop_ids=[free[4]])])["stopped"]
    assert stopped == free[: free.index(free[4])]
    assert (run.finishes["free"].reason, run.finishes["stopped"].reason) == ("length", "stop")


def test_max_tokens_counts_tokens_generated_before_submission(
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
    run.loop.put(Start(sequences), Stop(None, "no reader"))
    run.until(lambda run: len(run.finishes) == 3)
    assert {finish.message for finish in run.finishes.values()} == {"no reader"}


def test_dropped_sequences_end_without_events(a_run: Callable, a_sequence: Callable) -> None:
    run = a_run()
    run.loop.put(Start([a_sequence("old", max_tokens=200)]), Reset())
    run.all([a_sequence("new")])
    assert list(run.finishes) == ["new"]
    assert not run.tokens("old")


def test_an_id_of_a_dropped_session_can_be_reused(a_run: Callable, a_sequence: Callable) -> None:
    run = a_run()
    run.loop.put(Start([a_sequence("s", max_tokens=200)]), Reset())
    assert len(run.all([a_sequence("s")])["s"]) == 8


def test_a_revised_sequence_is_the_one_preempted(a_run: Callable, a_sequence: Callable) -> None:
    run = a_run(pages=8)
    sequences = [a_sequence(name, max_tokens=28, reserve=12) for name in "ab"]
    run.all(sequences, Revise({"a": 500, "b": 1, "unknown": 3}))
    assert run.preempted[0] == "a"


def test_a_revised_preempt_first_goes_before_the_remaining_length(
    a_run: Callable, a_sequence: Callable
) -> None:
    run = a_run(pages=8)
    sequences = [a_sequence(name, max_tokens=28, reserve=12) for name in "ab"]
    run.all(sequences, Revise({"a": 500, "b": 1}, {"b": 1, "unknown": 2}))
    assert run.preempted[0] == "b"


def test_a_preemption_that_is_asked_for_is_reported_and_changes_no_answer(
    a_run: Callable, a_sequence: Callable
) -> None:
    expected = a_run().all([a_sequence(name, max_tokens=40) for name in "ab"])
    run = a_run()
    run.loop.put(Start([a_sequence(name, max_tokens=40) for name in "ab"]))
    run.until(lambda run: len(run.tokens("a")) > 3)
    run.loop.put(Preempt(["a", "unknown"]))
    run.until(lambda run: len(run.finishes) == 2)
    assert run.preempted == ["a"]
    assert {name: run.tokens(name) for name in "ab"} == expected


def test_a_failing_step_ends_the_one_sequence_that_makes_it_fail(
    a_run: Callable, a_sequence: Callable
) -> None:
    run = a_run(step_tokens=16)
    alone = run.all([a_sequence("alone", range(20))])["alone"]
    neighbour = [a_sequence(f"neighbour{n}", range(20)) for n in range(3)]
    poison = a_sequence("poison", [1, 2, 3, INVALID_TOKEN])
    tokens = run.all([*neighbour, poison, a_sequence("last", range(20))])
    assert run.finishes["poison"].reason == "error"
    assert run.finishes["poison"].message.startswith("IndexError")
    assert tokens == dict.fromkeys(tokens, alone) | {"poison": []}


def test_one_of_two_poisoned_prompts_does_not_hide_the_other(
    a_run: Callable, a_sequence: Callable
) -> None:
    run = a_run(sharing=True)
    poisoned = [a_sequence(name, [*range(9), INVALID_TOKEN]) for name in ("first", "second")]
    run.all([a_sequence("neighbour", range(9)), *poisoned])
    reasons = {name: finish.reason for name, finish in run.finishes.items()}
    assert reasons == {"neighbour": "length", "first": "error", "second": "error"}


class Exhausted:
    """A network that runs out of device memory in its first steps."""

    def __init__(self, network: Callable, failures: int) -> None:
        self.network, self.failures = network, failures

    def __call__(self, packed: Packed, attention: ReferenceAttention) -> torch.Tensor:
        if self.failures > 0:
            self.failures -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return self.network(packed, attention)


def an_exhausted_runner(runner: Runner, failures: int) -> Runner:
    network = Exhausted(runner.model.network, failures)
    return Runner(runner.model._replace(network=network), pages=64, page_tokens=4)


def test_a_device_out_of_memory_shrinks_the_pool_and_no_client_notices(
    a_runner: Callable, a_run: Callable, a_sequence: Callable
) -> None:
    sequences = [a_sequence(f"s{n}", range(n, n + 9)) for n in range(6)]
    undisturbed = a_run().all(sequences)
    run = a_run(an_exhausted_runner(a_runner(), failures=3))
    assert run.all(sequences) == undisturbed
    assert run.loop.stats.shrinks == 3
    assert run.steps[-1].kv.pages == int(int(int(64 * 0.9) * 0.9) * 0.9)


def test_a_sequence_that_no_longer_fits_the_pool_ends_with_the_reason(
    a_runner: Callable, a_run: Callable, a_sequence: Callable
) -> None:
    run = a_run(an_exhausted_runner(a_runner(), failures=1))
    run.all([a_sequence("large", max_tokens=250, reserve=9), a_sequence("small")])
    assert run.finishes["small"].reason == "length"
    assert "KV memory, which had to shrink" in run.finishes["large"].message
    run.all([a_sequence("later", max_tokens=250)])
    assert run.finishes["later"].reason == "error"


def test_a_step_reports_what_it_computed(a_run: Callable, a_sequence: Callable) -> None:
    run = a_run()
    run.all([a_sequence("a", prompt=[5] * 10, max_tokens=4, reserve=4)])
    works = [step.work for step in run.steps if step.work is not None]
    assert works[0] == StepWork(prompt_tokens=10, prompt_reads=50.0, sequences=0, kv_tokens=0)
    assert works[1:4] == [StepWork(0, 0, 1, tokens) for tokens in (11, 12, 13)]


def test_nothing_is_computed_during_a_pause(a_run: Callable, a_sequence: Callable) -> None:
    run = a_run()
    whole = run.all([a_sequence("whole", max_tokens=40)])["whole"]
    run.loop.put(Start([a_sequence("paused", max_tokens=40)]))
    run.until(lambda run: run.tokens("paused"))
    run.loop.put(Pause(), Start([a_sequence("waits")]), Stop(["waits"]))
    run.until(lambda run: "waits" in run.finishes)
    paused_at = len(run.tokens("paused"))
    assert paused_at < 40
    assert run.loop.table.paused
    run.loop.put(Resume())
    run.until(lambda run: "paused" in run.finishes)
    assert run.tokens("paused") == whole


def test_a_change_of_mode_changes_no_token(a_run: Callable, a_sequence: Callable) -> None:
    sequences = [a_sequence(f"s{n}", range(n, 3 * n + 2), max_tokens=9 + n) for n in range(5)]
    undisturbed = a_run().all(sequences)
    run = a_run()
    run.loop.put(Start(sequences[:3]))
    run.until(lambda run: run.tokens("s0"))
    run.loop.put(SetMode("lockstep"), Start(sequences[3:]))
    run.until(lambda run: len(run.tokens("s1")) > 4)
    run.loop.put(SetMode("continuous"))
    run.until(lambda run: len(run.finishes) == 5)
    assert {s.id: run.tokens(s.id) for s in sequences} == undisturbed


def test_lockstep_answers_leave_together_with_their_own_tokens(
    a_run: Callable, a_sequence: Callable
) -> None:
    sequences = [a_sequence(f"s{n}", range(2 * n + 1), max_tokens=2 + 5 * n) for n in range(4)]
    undisturbed = a_run().all(sequences)
    run = a_run()
    run.loop.put(SetMode("lockstep"))
    assert run.all(sequences) == undisturbed
    [last] = [step for step in run.steps if step.finished]
    assert [finish.id for finish in last.finished] == ["s0", "s1", "s2", "s3"]
    assert run.computed >= 4 * (7 + 16)


def test_a_lockstep_batch_that_outgrows_memory_is_split_and_changes_no_token(
    a_run: Callable, a_sequence: Callable
) -> None:
    sequences = [a_sequence(f"s{n}", range(3), max_tokens=25 + n) for n in range(4)]
    undisturbed = a_run().all(sequences)
    run = a_run(pages=20)
    run.loop.put(SetMode("lockstep"))
    assert run.all(sequences) == undisturbed
    assert run.returned[0] == ["s0", "s1", "s2", "s3"]
    assert not run.preempted
    assert run.loop.stats.returned_batches == len(run.returned)
    [out] = [step for step in run.steps if step.returned == run.returned[0]]
    assert out.kv.free == out.kv.pages


def test_a_seed_samples_the_same_in_the_halves_of_a_batch(
    a_run: Callable, a_sequence: Callable
) -> None:
    sequences = [
        a_sequence(
            f"s{n}",
            range(3 + n),
            max_tokens=30,
            sampling=Sampling(temperature=1.0, seed=n, frequency_penalty=0.5),
        )
        for n in range(5)
    ]
    undisturbed = a_run().all(sequences)
    run = a_run(pages=20)
    run.loop.put(SetMode("lockstep"))
    assert run.all(sequences) == undisturbed
    assert len(run.returned) > 1


def test_batches_too_large_to_start_are_returned_one_after_the_other(
    a_run: Callable, a_sequence: Callable
) -> None:
    alone = a_run().all([a_sequence("s", range(30), max_tokens=3)])["s"]
    run = a_run(pages=12)
    run.loop.put(SetMode("lockstep"), Pause())
    batches = [[f"{batch}a", f"{batch}b"] for batch in range(MAX_IDLE_TURNS + 4)]
    for batch in batches:
        run.submit([a_sequence(name, range(30), max_tokens=3) for name in batch])
    run.loop.put(Resume())
    run.until(lambda run: len(run.finishes) == 2 * len(batches))
    assert run.returned == batches
    assert {tuple(run.tokens(name)) for batch in batches for name in batch} == {tuple(alone)}


def test_pins_are_released_for_a_sequence_alone_in_its_batch(
    a_run: Callable, a_sequence: Callable
) -> None:
    run = a_run(pages=12, sharing=True)
    run.all([a_sequence("first", range(24))], Pin("prefix", list(range(24)), ""))
    assert run.steps[-1].kv.free == 12 - 24 // 4
    run.loop.put(SetMode("lockstep"))
    large = [a_sequence(name, range(50, 80), max_tokens=18) for name in "ab"]
    assert [len(tokens) for tokens in run.all(large).values()] == [18, 18]
    assert run.returned == [["a", "b"]]
    assert run.steps[-1].kv.free == 12


def test_equal_prefixes_are_computed_once_and_change_no_token(
    a_run: Callable, a_sequence: Callable
) -> None:
    prefix = list(range(40))
    sequences = [a_sequence(f"s{n}", [*prefix, n, n + 1]) for n in range(6)]
    apart, together = a_run(step_tokens=24), a_run(step_tokens=24, sharing=True)
    assert together.all(sequences) == apart.all(sequences)
    assert apart.computed - together.computed == 5 * 40
    assert sorted(together.reused.values()) == [0] + [40] * 5
    assert set(apart.reused.values()) == {0}


def test_pages_that_a_preempted_sequence_finds_again_are_not_reused_ones(
    a_run: Callable, a_sequence: Callable
) -> None:
    sequences = [a_sequence(f"s{n}", range(n, n + 9), max_tokens=30, reserve=2) for n in range(6)]
    run = a_run(pages=24, sharing=True)
    run.all(sequences)
    assert run.preempted
    assert run.reused == {sequence.id: 0 for sequence in sequences}


def test_a_cached_prefix_is_found_again_by_a_later_sequence(
    a_run: Callable, a_sequence: Callable
) -> None:
    run = a_run(sharing=True)
    first = run.all([a_sequence("first", range(20))])["first"]
    before = run.computed
    later = a_sequence("later", [*range(20), *first[:5]], max_tokens=3)
    assert run.all([later])["later"] == first[5:]
    assert run.computed - before == 25 - 24 + 2  # generated tokens are cached too
    assert run.reused == {"first": 0, "later": 24}


def test_swapped_sequences_resume_with_the_same_tokens_and_compute_nothing_twice(
    a_run: Callable, a_sequence: Callable
) -> None:
    sequences = [a_sequence(f"s{n}", range(n, n + 9), max_tokens=30, reserve=2) for n in range(6)]
    undisturbed = a_run()
    tokens = undisturbed.all(sequences)
    run = a_run(pages=24, host_pages=100)
    assert run.all(sequences) == tokens
    assert run.preempted
    assert run.computed == undisturbed.computed
    assert run.memory.host.used == 0
    assert run.loop.stats.swaps == len(run.preempted)
    assert run.steps[-1].swap_token_s == run.memory.host.costs.page_copy_s / 4 > 0
    assert not undisturbed.steps[-1].swap_token_s


def test_log_probabilities_come_with_the_tokens(a_run: Callable, a_sequence: Callable) -> None:
    run = a_run()
    [tokens] = run.all([a_sequence("s", sampling=Sampling(logprobs=2))]).values()
    reported = [logprobs for step in run.steps for logprobs in step.logprobs.get("s", [])]
    assert [logprobs.top[0][0] for logprobs in reported] == tokens
    assert all(logprobs.logprob == logprobs.top[0][1] < 0 for logprobs in reported)


def test_only_allowed_tokens_are_sampled(a_run: Callable, a_sequence: Callable) -> None:
    run = a_run()
    [tokens] = run.all([a_sequence("s", sampling=Sampling(allowed=[5, 9]))]).values()
    assert set(tokens) <= {5, 9}


def test_a_penalty_counts_the_token_in_flight(a_run: Callable, a_sequence: Callable) -> None:
    once = Sampling(presence_penalty=2.0, frequency_penalty=2.0, logit_bias={7: 6.0, 8: 5.0})
    [tokens] = a_run().all([a_sequence("s", sampling=once, max_tokens=30)]).values()
    repeated = [a for a, b in pairwise(tokens) if a == b]
    assert len(repeated) < 5


def test_the_loop_ends_if_the_model_can_run_no_step(
    a_runner: Callable, a_run: Callable, a_sequence: Callable
) -> None:
    runner = a_runner()
    run = a_run(runner)
    runner.store.keys.clear()
    run.loop.put(Start([a_sequence()]))
    run.until(lambda run: run.failures)
    run.loop.join(10)
    assert not run.loop.is_alive()


def test_nan_scores_end_one_sequence_and_affect_no_other(
    a_runner: Callable, a_run: Callable, a_sequence: Callable
) -> None:
    runner = a_runner()
    clean = a_run(runner).all([a_sequence("s", max_tokens=40)])["s"]
    with torch.no_grad():
        runner.model.network._embedding[96] = torch.nan
    run = a_run(runner)
    neighbour = run.all([a_sequence("nan", [96] * 50), a_sequence("s", max_tokens=40)])["s"]
    assert run.finishes["nan"].reason == "error"
    assert neighbour == clean
    assert run.all([a_sequence("reused", max_tokens=40)])["reused"] == clean


def test_a_seed_samples_the_same_alone_in_a_batch_and_after_preemption(
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


def test_a_seed_samples_the_same_wherever_another_engine_goes_on(
    a_run: Callable, a_sequence: Callable
) -> None:
    sampling = Sampling(
        temperature=1.0, top_p=0.9, min_tokens=6, frequency_penalty=0.5, seed=2**63 - 1
    )
    whole = a_sequence(max_tokens=12, sampling=sampling)
    expected = a_run().all([whole])["s"]
    assert len(expected) == 12
    moved = [
        a_sequence(f"s{place}", max_tokens=12, sampling=sampling, generated=expected[:place])
        for place in range(12)
    ]
    continued = a_run().all(moved)
    assert continued == {f"s{place}": expected[place:] for place in range(12)}


@pytest.mark.parametrize("seed", range(3))
def test_random_commands_leave_every_page_free(
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
