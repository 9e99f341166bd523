"""Accepted ranges of numeric parameters, and the error outside them."""

from collections.abc import Mapping

from msgspec import Meta, Struct

from gateway.errors import InvalidRequest, shortened


class Range(Struct, frozen=True):
    """Numbers from `low` to `high`; if `exclusive`, without `low` itself."""

    low: float
    high: float
    exclusive: bool = False

    def __str__(self) -> str:
        return (
            f"above {self.low}, up to {self.high}"
            if self.exclusive
            else f"{self.low} to {self.high}"
        )

    @property
    def documented(self) -> Meta:
        """The bounds in JSON Schema; they are checked by `check`, in its own words."""
        low = "exclusiveMinimum" if self.exclusive else "minimum"
        return Meta(extra_json_schema={low: self.low, "maximum": self.high})

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.exclusive and value == self.low)

    def check(self, name: str, value: float, *, param: str) -> None:
        """InvalidRequest if the value is outside; it names value, range and parameter."""
        if value not in self:
            raise InvalidRequest(
                f"{name} is {shortened(str(value))}; accepted is {self}", param=param
            )


def check_ranges(request: object, ranges: Mapping[str, Range]) -> None:
    """InvalidRequest names the first field that is outside its range."""
    for name, accepted in ranges.items():
        value = getattr(request, name)
        if value is not None:
            accepted.check(name, value, param=name)
