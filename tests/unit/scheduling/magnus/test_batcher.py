"""Adaptive batching against a comparison of all queued batches."""

from collections.abc import Callable
from math import ceil
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.admission.interface import Capacity
from gateway.scheduling.magnus.batch import MagnusBatch
from gateway.scheduling.magnus.batcher import Batcher
from gateway.scheduling.magnus.wma import WasteLimit
from gateway.scheduling.requests import QueuedRequest

MakeRequest = Callable[..., QueuedRequest]
ANY = WasteLimit(1.0)
arrivals = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 60), st.booleans()),
    max_size=25,
)


class Joined(NamedTuple):
    """WMA of a batch with one more member, and the reads of one of its rows, step by step."""

    waste: int
    reads: int


def if_joined(batch: MagnusBatch, request: QueuedRequest, capacity: Capacity) -> Joined | None:
    members = [*batch.members.values(), request]
    lengths = [(member.prompt_tokens, int(member.p90)) for member in members]
    prompt, generation = (max(values) for values in zip(*lengths, strict=True))
    row_pages = ceil((prompt + generation) / capacity.page_tokens)
    if not batch.insertable or len(members) * row_pages > capacity.pages:
        return None
    reads = sum(prompt + step for step in range(generation))
    return Joined(max(token_reads_wasted(*member, lengths) for member in lengths), reads)


def token_reads_wasted(prompt: int, generation: int, batch: list[tuple[int, int]]) -> int:
    """Padding read while a member generates, then its whole row until the batch ends."""
    longest = max(prompt for prompt, _ in batch)
    last = max(generation for _, generation in batch)
    padding = sum(longest - prompt for _ in range(generation))
    return padding + sum(step + longest for step in range(generation, last))


def most_waste(limit: WasteLimit, row_reads: int) -> float:
    return limit.share * row_reads if limit.reads is None else limit.reads


limits = st.one_of(
    st.builds(WasteLimit, st.integers(0, 16).map(lambda sixteenth: sixteenth / 16)),
    st.builds(WasteLimit, st.just(0.5), st.integers(0, 3000).map(float)),
)


@given(arrivals, limits, st.integers(40, 600), st.sampled_from([1, 4, 16]))
def test_request_joins_the_batch_of_least_waste_within_the_limit(
    a_request: MakeRequest,
    drawn: list[tuple[int, int, bool]],
    limit: WasteLimit,
    pages: int,
    page_tokens: int,
) -> None:
    capacity = Capacity(pages, page_tokens)
    batcher = Batcher(limit, capacity)
    for prompt, generation, leaves in drawn:
        request = a_request(prompt, quantiles=(float(generation),) * 6)
        found = {b.id: if_joined(b, request, capacity) for b in batcher.batches.values()}
        wastes = {
            key: joined.waste
            for key, joined in found.items()
            if joined and joined.waste <= most_waste(limit, joined.reads)
        }
        batch = batcher.add(request)
        assert wastes.get(batch.id) == min(wastes.values(), default=None)
        assert batch.id in wastes or batch.id not in found
        if leaves:
            batcher.take([request.id])
        batcher.check()


def test_batch_shrinks_to_the_lengths_of_its_remaining_members(a_request: MakeRequest) -> None:
    batcher = Batcher(ANY, Capacity(10_000, 1))
    long, short = a_request(90, 80), a_request(10, 20)
    batch = batcher.add(long)
    assert batcher.add(short) is batch
    assert (batch.prompt_tokens, batch.generation_tokens) == (90, long.p90)
    batcher.take([long.id])
    assert (batch.prompt_tokens, batch.generation_tokens) == (10, short.p90)


def test_no_request_joins_a_half_of_a_failed_batch(a_request: MakeRequest) -> None:
    batcher = Batcher(ANY, Capacity(10_000, 1))
    requests = [a_request() for _ in range(5)]
    first, second = batcher.halve(requests)
    assert [len(first), len(second)] == [2, 3]
    assert [*first.members.values(), *second.members.values()] == requests
    assert batcher.add(a_request()) not in (first, second)
    batcher.check()


def test_a_request_left_of_a_batch_is_a_closed_batch(a_request: MakeRequest) -> None:
    batcher = Batcher(ANY, Capacity(10_000, 1))
    [batch] = batcher.halve([a_request()])
    assert (len(batch), batch.insertable) == (1, False)
    assert batcher.add(a_request()) is not batch


def test_a_queued_request_cannot_be_halved(a_request: MakeRequest) -> None:
    batcher, request = Batcher(ANY, Capacity(10_000, 1)), a_request()
    batcher.add(request)
    with pytest.raises(ValueError, match="not queued"):
        batcher.halve([request])


def test_same_id_cannot_wait_twice(a_request: MakeRequest) -> None:
    batcher = Batcher(ANY, Capacity(10_000, 1))
    request = a_request()
    batcher.add(request)
    with pytest.raises(ValueError, match="waits already"):
        batcher.add(request)


def test_share_of_one_batches_any_lengths_and_of_zero_only_equal_ones(
    a_request: MakeRequest,
) -> None:
    lengths = [(5, 7.3), (5, 7.3), (90, 7.3), (5, 80.1), (5, 7.3)]
    numbers = [
        len({batcher.add(a_request(*each)).id for each in lengths})
        for batcher in (
            Batcher(WasteLimit(1.0), Capacity(10_000, 1)),
            Batcher(WasteLimit(0.0), Capacity(10_000, 1)),
        )
    ]
    assert numbers == [1, 3]


def test_relative_limit_batches_long_and_short_rows_alike(a_request: MakeRequest) -> None:
    """The paper's number of reads batches all short rows together and each long one alone."""
    short, long = [(10, g) for g in (10, 11, 40)], [(1_000, g) for g in (1_000, 1_100, 4_000)]
    batches = []
    for limit in (WasteLimit(0.3), WasteLimit(0.3, 50_000.0)):
        for lengths in (short, long):
            batcher = Batcher(limit, Capacity(100_000, 1))
            for prompt, generation in lengths:
                batcher.add(a_request(prompt, quantiles=(float(generation),) * 6))
            batches.append(len(batcher.batches))
    assert batches == [2, 2, 1, 3]
