"""How many examples a property tries."""

from hypothesis import settings


def part_of_examples(divisor: int) -> settings:
    """For a property whose examples are slow: the profile's number, divided."""
    return settings(max_examples=max(1, settings().max_examples // divisor))
