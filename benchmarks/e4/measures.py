"""The figures of one run of closed-loop clients."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median, quantiles

from benchmarks.e4.closed_loop import Exchange


@dataclass(frozen=True)
class LoadTrace:
    """A run: its exchanges by request, and the time until which all clients had work.

    `counted`: the increase of our engine's counters; empty for others.
    """

    exchanges: dict[str, Exchange]
    saturated_s: float
    counted: Mapping[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Output tokens per second while all clients had work."""
        until = self.saturated_s
        tokens = sum(at <= until for each in self.exchanges.values() for at in each.at_s)
        return tokens / until

    @property
    def first_token_s(self) -> list[float]:
        """The time to the first token of each request."""
        return [each.at_s[0] - each.sent_s for each in self.exchanges.values()]

    @property
    def token_s(self) -> list[float]:
        """The mean time per output token after the first, of each request with several."""
        return [
            (each.at_s[-1] - each.at_s[0]) / (len(each.at_s) - 1)
            for each in self.exchanges.values()
            if len(each.at_s) > 1
        ]


def p90(values: list[float]) -> float:
    """The 0.9 quantile."""
    return quantiles(values, n=10, method="inclusive")[-1] if len(values) > 1 else values[0]


def agreement(one: LoadTrace, other: LoadTrace, tokens: int) -> float:
    """Share of the requests of both whose first `tokens` tokens are equal."""
    common = one.exchanges.keys() & other.exchanges.keys()
    equal = (
        one.exchanges[name].tokens[:tokens] == other.exchanges[name].tokens[:tokens]
        for name in common
    )
    return sum(equal) / len(common)


def typical_ms(values: list[float]) -> float:
    """The median, in milliseconds."""
    return 1000 * median(values)
