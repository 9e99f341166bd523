"""Sequences in host memory: the tokens that they get, among others and under pressure."""

import gc
from collections.abc import Callable

import pytest
import torch
from msgspec import structs

from engine.offload.staging import StagedLayer
from engine.protocol import HostWork, Preempt, Sampling, Sequence, SetMode, StepWork
from engine.step.commands import Stop
from tests.unit.engine.test_equality import DEMO, FAMILIES, SEQUENCES, some_sequences

# Those whose layers see all tokens, and that our own forward pass computes.
SPECULATIVE = ["llama", "llama-tied", "qwen2", "qwen3"]


def on_host(
    sequences: list[Sequence], memory: str = "host-exact", name: str = ""
) -> list[Sequence]:
    return [structs.replace(s, id=name + s.id, memory=memory) for s in sequences]


@pytest.fixture
def expected(a_run: Callable) -> Callable[[str], dict[str, list[int]]]:
    """The tokens of `SEQUENCES` on the device."""
    return lambda family: a_run(family, pages=200).all(SEQUENCES)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("step_tokens", [5, 64])
def test_everything_fetched_gives_the_tokens_of_the_device(
    family: str, step_tokens: int, a_run: Callable, expected: Callable
) -> None:
    run = a_run(family, pages=4, step_tokens=step_tokens, offload_pages=200)
    assert run.all(on_host(SEQUENCES)) == expected(family)
    assert sum(step.fetched_bytes for step in run.steps) > 0


@pytest.mark.parametrize("family", SPECULATIVE)
@pytest.mark.parametrize("step_tokens", [5, 64])
def test_short_sequences_are_fetched_whole(
    family: str, step_tokens: int, a_run: Callable, expected: Callable
) -> None:
    run = a_run(family, pages=4, step_tokens=step_tokens, offload_pages=200)
    assert run.all(on_host(SEQUENCES, "host-speculative")) == expected(family)


def test_a_step_has_both_kinds(a_run: Callable, expected: Callable) -> None:
    sequences = [
        *SEQUENCES,
        *on_host(SEQUENCES, "host-exact", "exact-"),
        *on_host(SEQUENCES, "host-speculative", "speculative-"),
    ]
    tokens = a_run("llama", pages=100, step_tokens=33, offload_pages=100).all(sequences)
    for name, of_device in expected("llama").items():
        assert tokens[name] == tokens[f"exact-{name}"] == tokens[f"speculative-{name}"] == of_device


def test_little_memory_changes_no_token(a_run: Callable, expected: Callable) -> None:
    sequences = [structs.replace(s, reserve=1) for s in on_host(SEQUENCES)]
    run = a_run("llama", pages=4, step_tokens=33, offload_pages=17)
    assert run.all(sequences) == expected("llama")
    assert run.preempted


def test_speculation_fetches_a_part(a_run: Callable) -> None:
    sequence = Sequence("s", [n % 90 for n in range(150)], 40, 40, memory="host-speculative")
    run = a_run("llama", pages=4, step_tokens=64, offload_pages=64)
    assert len(run.all([sequence])["s"]) == 40
    whole = a_run("llama", pages=4, step_tokens=64, offload_pages=64)
    whole.all([structs.replace(sequence, memory="host-exact")])
    decoded = [[step.fetched_bytes for step in r.steps if step.computed == 1] for r in (run, whole)]
    # The first has nothing of the sequence on the device yet.
    assert sum(decoded[0][1:]) < 0.45 * sum(decoded[1][1:])


@pytest.mark.parametrize("memory", ["device", "host-exact"])
def test_ended_speculation_leaves_nothing_on_the_device(memory: str, a_run: Callable) -> None:
    sequence = Sequence("s", [n % 90 for n in range(150)], 5, 5, memory="host-speculative")
    run = a_run("llama", pages=64, step_tokens=64, offload_pages=64)
    run.all([sequence])
    run.all([structs.replace(sequence, id="next", memory=memory)])
    gc.collect()
    left = [each for each in gc.get_objects() if type(each) is StagedLayer]
    assert not left


@pytest.mark.parametrize("memory", ["host-exact", "host-speculative"])
def test_sampling_and_logprobs_are_those_of_the_device(memory: str, a_run: Callable) -> None:
    sampling = Sampling(temperature=1.0, seed=7, logprobs=3, frequency_penalty=0.4)
    sequences = [structs.replace(s, sampling=sampling) for s in SEQUENCES]
    device = a_run("llama", pages=200)
    host = a_run("llama", pages=4, offload_pages=200)
    assert host.all(on_host(sequences, memory)) == device.all(sequences)
    for name in device.finishes:
        of_both = [
            [entry.logprob for step in run.steps for entry in step.logprobs.get(name, [])]
            for run in (device, host)
        ]
        assert torch.allclose(*map(torch.tensor, of_both), atol=1e-5)


def test_stopped_and_preempted_sequences_free_their_pages(a_run: Callable) -> None:
    long = Sequence("long", [1] * 20, 200, 200, memory="host-exact")
    other = Sequence("other", [2] * 20, 30, 30, memory="host-exact")
    run = a_run("llama", pages=4, offload_pages=64)
    run.submit([long, other])
    run.until(lambda r: len(r.tokens("long")) > 3)
    run.loop.put(Preempt(["long"]))
    run.until(lambda r: "long" in r.preempted)
    run.loop.put(Stop(["long"], None))
    run.until(lambda r: {"long", "other"} <= r.finishes.keys())
    assert run.finishes["long"].reason == "cancelled"
    assert run.steps[-1].kv.offload_free == run.steps[-1].kv.offload_pages == 64


def test_lock_step_refuses_them(a_run: Callable) -> None:
    run = a_run("llama", pages=60, offload_pages=64)
    running, later = on_host([Sequence("a", [1, 2], 200, 200), Sequence("b", [1, 2], 9, 9)])
    run.submit([running])
    run.until(lambda r: r.tokens("a"))
    run.submit([], SetMode("lockstep"))
    run.submit([later])
    run.until(lambda r: {"a", "b"} <= r.finishes.keys())
    for finish in run.finishes.values():
        assert finish.reason == "error"
        assert "lock step" in (finish.message or "")


def test_a_longer_context_than_the_pool_holds(a_run: Callable) -> None:
    [sequence] = some_sequences(600, 1)
    sequence = structs.replace(sequence, prompt=sequence.prompt * 120, max_tokens=20, reserve=20)
    tokens = len(sequence.prompt) + 20
    on_device = a_run(DEMO, pages=tokens // 16 + 1, page_tokens=16, step_tokens=64)
    run = a_run(DEMO, pages=4, page_tokens=16, step_tokens=64, offload_pages=tokens // 16 + 1)
    assert run.all(on_host([sequence])) == on_device.all([sequence])


def test_steps_report_what_those_on_the_host_had_computed(
    a_run: Callable, a_sequence: Callable
) -> None:
    run = a_run("llama", offload_pages=200, step_tokens=8)
    exact = a_sequence("e", [5] * 10, max_tokens=3, memory="host-exact")
    run.all([exact])
    first, second, *decoding = [step.host_work for step in run.steps if step.host_work]
    assert first == HostWork(StepWork(8, 32.0, 0, 0))
    assert second == HostWork(StepWork(2, 18.0, 0, 0), exact_tokens=8)
    assert decoding == [HostWork(StepWork(0, 0, 1, 0), 1, tokens) for tokens in (11, 12)]
    speculative = a_sequence("s", [5] * 8, max_tokens=2, memory="host-speculative")
    run.all([speculative])
    assert run.steps[-1].host_work == HostWork(StepWork(0, 0, 1, 0), 0, 0, 1, 9)
    run.all([a_sequence("d", max_tokens=2)])
    assert run.steps[-1].host_work is None


def test_work_of_a_step_with_both_kinds_leaves_out_no_row(
    a_run: Callable, a_sequence: Callable
) -> None:
    run = a_run("llama", offload_pages=200)
    run.all(
        [
            a_sequence("d", [5] * 6, max_tokens=6, reserve=6),
            a_sequence("h", [5] * 6, max_tokens=6, memory="host-exact"),
        ]
    )
    both = [each.host_work for each in run.steps if len(each.tokens) == 2 and each.computed == 2]
    assert both
    for tokens, work in enumerate(both, 7):
        assert work == HostWork(StepWork(0, 0, 2, tokens), 1, tokens)
    assert run.steps[0].work is None
