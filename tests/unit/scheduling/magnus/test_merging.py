"""Merging waiting batches into the next one, against the waits of both orders written out."""

from collections.abc import Callable
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.admission.interface import Capacity
from gateway.scheduling.admission.reservation import SumOfReservations
from gateway.scheduling.magnus.batch import MagnusBatch
from gateway.scheduling.magnus.batcher import Batcher
from gateway.scheduling.magnus.merging import merged
from gateway.scheduling.magnus.policy import MagnusPolicy, highest_ratio
from gateway.scheduling.magnus.wma import WasteLimit
from gateway.scheduling.requests import QueuedRequest
from gateway.scheduling.serving_time import PRIOR, CostTerms, serving_seconds

MakeRequest = Callable[..., QueuedRequest]
EQUAL_ONLY = WasteLimit(0.0)
READS_WEIGHTS = CostTerms(0.0, 0.0, 1e-2, 0.0, 0.0)  # a step takes as long for any rows
COMPUTES_ROWS = CostTerms(0.0, 0.0, 0.0, 1e-2, 0.0)  # a step takes as long as it has rows
lengths = st.tuples(st.integers(1, 60), st.integers(1, 60))


def a_batcher(requests: list[QueuedRequest], tokens: int = 10_000) -> Batcher:
    batcher = Batcher(EQUAL_ONLY, Capacity(tokens, 1))
    for request in requests:
        batcher.add(request)
    return batcher


def batches_merged(
    batcher: Batcher, coefficients: CostTerms, first: MagnusBatch | None = None
) -> list[MagnusBatch]:
    first = first or next(iter(batcher.batches.values()))
    return list(merged(first, batcher.open_batches, len(batcher), coefficients))


def seconds(requests: list[QueuedRequest], coefficients: CostTerms) -> float:
    longest = max(request.prompt_tokens for request in requests)
    most = max(request.p90 for request in requests)
    return serving_seconds(coefficients, len(requests), longest, most)


def waits_s(batches: list[list[QueuedRequest]], others: int, coefficients: CostTerms) -> float:
    """The sum of all waits until the batches have ended, run in this order; `others` wait on."""
    now_s = total_s = 0.0
    for batch in batches:
        now_s += seconds(batch, coefficients)
        total_s += len(batch) * now_s
    return total_s + others * now_s


def members(batch: MagnusBatch) -> list[QueuedRequest]:
    return batch.first(len(batch))


@given(
    st.lists(lengths, min_size=1, max_size=12),
    st.sampled_from([PRIOR, READS_WEIGHTS, COMPUTES_ROWS]),
    st.integers(100, 2_000),
)
def test_each_merge_fits_the_memory_and_shortens_the_waits_most(
    a_request: MakeRequest, drawn: list[tuple[int, int]], coefficients: CostTerms, tokens: int
) -> None:
    batcher = a_batcher([a_request(*each) for each in drawn], tokens)
    first, *joined = batches_merged(batcher, coefficients)
    together, left = members(first), [b for b in batcher.batches.values() if b is not first]
    for batch in (*joined, None):
        gains = {}
        for other in left:
            both = [*together, *members(other)]
            row = max(r.prompt_tokens for r in both) + max(r.p90 for r in both)
            fits = len(both) * ceil(row) <= tokens  # in whole pages, of a token each
            if fits and other in batcher.open_batches:
                behind = len(batcher) - len(both)
                apart_s = waits_s([together, members(other)], behind, coefficients)
                gains[other.id] = apart_s - waits_s([both], behind, coefficients)
        best = max(gains.values(), default=0.0)
        if batch is None:
            assert best <= 1e-9
        else:
            assert gains[batch.id] >= best - 1e-9
            assert gains[batch.id] > -1e-9  # sums in another order than the policy
            together += members(batch)
            left.remove(batch)


def test_batches_are_merged_where_rows_are_free_and_not_where_they_cost(
    a_request: MakeRequest,
) -> None:
    batcher = a_batcher([a_request(20, 30), a_request(20, 35)])
    assert len(batches_merged(batcher, READS_WEIGHTS)) == 2
    assert len(batches_merged(batcher, COMPUTES_ROWS)) == 1


def test_a_much_longer_batch_is_not_merged_unless_many_wait_behind(a_request: MakeRequest) -> None:
    short, long = (10, 10), (10, 60)
    few = a_batcher([a_request(*each) for each in (*[short] * 8, long)])
    assert len(batches_merged(few, READS_WEIGHTS)) == 1
    behind = [a_request(400, 60, max_tokens=200) for _ in range(60)]
    many = a_batcher([a_request(*each) for each in (*[short] * 8, long)] + behind, tokens=6_000)
    assert len(batches_merged(many, READS_WEIGHTS)) == 2


def test_policy_starts_merged_batches_together_and_halves_alone(a_request: MakeRequest) -> None:
    policy = MagnusPolicy(
        "magnus",
        highest_ratio,
        EQUAL_ONLY,
        admission=SumOfReservations("held"),
        merges=True,
    )
    policy.resize(10_000, 1)
    requests = [a_request(20, 30), a_request(20, 31), a_request(20, 32)]
    for request in requests:
        policy.arrive(request)
    failed = policy.dispatch(1.0)
    assert failed is not None
    assert set(failed.requests) == set(requests)
    policy.check()
    policy.halve(failed.requests)
    policy.arrive(a_request(20, 33, arrived_s=2.0))
    sizes = []
    while len(policy):
        found = policy.dispatch(3.0)
        assert found is not None
        sizes.append(len(found.requests))
        for request in found.requests:
            policy.ended(request, 1, 3.0)
    assert sorted(sizes) == [1, 1, 2]
