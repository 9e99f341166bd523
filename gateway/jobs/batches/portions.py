"""Divides rows so that those of a portion are not too large together."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

PORTION_BYTES: Final = 16 << 20  # of bodies or results that one query reads or writes

Item = TypeVar("Item")


def portions(
    items: Iterable[Item], size: Callable[[Item], int], most: int = PORTION_BYTES
) -> Iterator[list[Item]]:
    """The items in their order, in portions of at most this size; a larger one is alone."""
    portion: list[Item] = []
    taken = 0
    for item in items:
        taken += size(item)
        if portion and taken > most:
            yield portion
            portion, taken = [], size(item)
        portion.append(item)
    if portion:
        yield portion
