"""Rows in portions of a bounded size."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.jobs.batches.portions import portions


@given(st.lists(st.integers(0, 20)), st.integers(1, 30))
def test_portions_have_all_in_order_and_only_one_alone_is_too_large(
    sizes: list[int], most: int
) -> None:
    found = list(portions(sizes, lambda size: size, most))
    assert [size for portion in found for size in portion] == sizes
    assert all(portion for portion in found)
    assert all(sum(portion) <= most or len(portion) == 1 for portion in found)
    for portion, following in pairwise(found):
        assert sum(portion) + following[0] > most, "as much as fits"
