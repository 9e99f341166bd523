"""What numbers a parameter may have, and what is said where it has another."""

from collections.abc import Mapping

from msgspec import Struct

from gateway.errors import InvalidRequest


class Range(Struct, frozen=True):
    """Numbers from `least` to `most`; without `least` itself where it is `open`."""

    least: float
    most: float
    open: bool = False

    def __str__(self) -> str:
        return (
            f"above {self.least}, up to {self.most}"
            if self.open
            else f"{self.least} to {self.most}"
        )

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most and not (self.open and value == self.least)

    def check(self, name: str, value: float, *, param: str) -> None:
        """InvalidRequest where the value is outside, naming it, the range and the parameter."""
        if value not in self:
            raise InvalidRequest(f"{name} is {value}; accepted is {self}", param=param)


def check_ranges(request: object, ranges: Mapping[str, Range]) -> None:
    """InvalidRequest names the first field that is set outside its range."""
    for name, accepted in ranges.items():
        value = getattr(request, name)
        if value is not None:
            accepted.check(name, value, param=name)
