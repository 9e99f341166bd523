"""Wasted memory access against a sum over all token reads."""

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.scheduling.magnus.wma import row_reads

lengths = st.tuples(st.integers(1, 60), st.integers(1, 60))


def token_reads_wasted(prompt: int, generation: int, batch: list[tuple[int, int]]) -> int:
    longest = max(prompt for prompt, _ in batch)
    last = max(generation for _, generation in batch)
    padding = sum(longest - prompt for _ in range(generation))
    return padding + sum(step + longest for step in range(generation, last))


@given(st.lists(lengths, min_size=1, max_size=6))
@example([(7, 9), (7, 9), (7, 9)])
def test_waste_of_a_request_is_the_largest_row_less_its_own(batch: list[tuple[int, int]]) -> None:
    largest = row_reads(max(prompt for prompt, _ in batch), max(tokens for _, tokens in batch))
    for member in batch:
        assert largest - row_reads(*member) == token_reads_wasted(*member, batch)


def test_published_scale_of_waste() -> None:
    assert row_reads(200, 100) - row_reads(200, 50) == 13_725
    assert row_reads(500, 300) - row_reads(500, 200) == 74_950
