"""Adaptive batching against a comparison of all queued batches."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.magnus.batch import MagnusBatch
from gateway.scheduling.magnus.batcher import Batcher
from gateway.scheduling.requests import QueuedRequest

MakeRequest = Callable[..., QueuedRequest]
arrivals = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 60), st.booleans()),
    max_size=25,
)


def waste_if_joined(batch: MagnusBatch, request: QueuedRequest, memory_tokens: int) -> float | None:
    members = [*batch.members.values(), request]
    lengths = [(member.prompt_tokens, int(member.median)) for member in members]
    tokens = max(prompt for prompt, _ in lengths) + max(generation for _, generation in lengths)
    if not batch.insertable:
        return None
    if len(members) * tokens > memory_tokens:
        return None
    return max(token_reads_wasted(*member, lengths) for member in lengths)


def token_reads_wasted(prompt: int, generation: int, batch: list[tuple[int, int]]) -> int:
    """Padding read while a member generates, then its whole row until the batch ends."""
    longest = max(prompt for prompt, _ in batch)
    last = max(generation for _, generation in batch)
    padding = sum(longest - prompt for _ in range(generation))
    return padding + sum(step + longest for step in range(generation, last))


@given(arrivals, st.integers(1, 3000), st.integers(40, 600))
def test_request_joins_the_batch_of_least_waste_below_the_limit(
    a_request: MakeRequest, drawn: list[tuple[int, int, bool]], limit: int, memory: int
) -> None:
    batcher = Batcher(limit, memory)
    for prompt, generation, leaves in drawn:
        request = a_request(prompt, generation)
        wastes = {b.id: waste_if_joined(b, request, memory) for b in batcher.batches.values()}
        below = [waste for waste in wastes.values() if waste is not None and waste < limit]
        batch = batcher.add(request)
        assert wastes.get(batch.id) == (min(below) if below else None)
        if leaves:
            batcher.take([request.id])
        batcher.check()


def test_batch_shrinks_to_the_lengths_of_its_remaining_members(a_request: MakeRequest) -> None:
    batcher = Batcher(1e9, 10_000)
    long, short = a_request(90, 80), a_request(10, 20)
    batch = batcher.add(long)
    assert batcher.add(short) is batch
    assert (batch.prompt_tokens, batch.generation_tokens) == (90, 80)
    batcher.take([long.id])
    assert (batch.prompt_tokens, batch.generation_tokens) == (10, 20)


def test_no_request_joins_a_half_of_a_failed_batch(a_request: MakeRequest) -> None:
    batcher = Batcher(1e9, 10_000)
    requests = [a_request() for _ in range(5)]
    first, second = batcher.halve(requests)
    assert [len(first), len(second)] == [2, 3]
    assert [*first.members.values(), *second.members.values()] == requests
    assert batcher.add(a_request()) not in (first, second)
    batcher.check()


def test_a_lone_request_cannot_be_halved(a_request: MakeRequest) -> None:
    with pytest.raises(ValueError, match="two or more"):
        Batcher(1e9, 10_000).halve([a_request()])


def test_same_id_cannot_wait_twice(a_request: MakeRequest) -> None:
    batcher = Batcher(1e9, 10_000)
    request = a_request()
    batcher.add(request)
    with pytest.raises(ValueError, match="waits already"):
        batcher.add(request)


def test_without_a_waste_limit_each_request_is_its_own_batch(a_request: MakeRequest) -> None:
    batcher = Batcher(None, 10_000)
    assert len({batcher.add(a_request()).id for _ in range(4)}) == 4
