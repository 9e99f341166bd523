"""Wasted memory access against the sum over every token read."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.waste import batch_waste, padding_waste, waiting_waste

lengths = st.tuples(st.integers(1, 60), st.integers(1, 60))


def token_reads_wasted(prompt: int, generation: int, batch: list[tuple[int, int]]) -> int:
    longest = max(prompt for prompt, _ in batch)
    last = max(generation for _, generation in batch)
    padding = sum(longest - prompt for _ in range(generation))
    return padding + sum(step + longest for step in range(generation, last))


@given(st.lists(lengths, min_size=1, max_size=6))
def test_waste_of_a_request_is_the_sum_of_its_wasted_reads(batch: list[tuple[int, int]]) -> None:
    longest = max(prompt for prompt, _ in batch)
    last = max(generation for _, generation in batch)
    for prompt, generation in batch:
        waste = padding_waste(prompt, generation, longest)
        waste += waiting_waste(generation, longest, last)
        assert waste == token_reads_wasted(prompt, generation, batch)


@given(st.lists(lengths, min_size=1, max_size=6))
def test_waste_of_a_batch_is_that_of_its_worst_member(batch: list[tuple[int, int]]) -> None:
    assert batch_waste(batch) == max(token_reads_wasted(*member, batch) for member in batch)


def test_published_scale_of_waste() -> None:
    assert waiting_waste(50, 200, 100) == 13_725
    assert waiting_waste(200, 500, 300) == 74_950


def test_equal_lengths_waste_nothing() -> None:
    assert batch_waste([(7, 9), (7, 9), (7, 9)]) == 0
    assert batch_waste([]) == 0
