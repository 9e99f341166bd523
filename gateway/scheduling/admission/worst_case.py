"""What sequences hold now and at most later: by itself it is often enough to admit a request.

If n sequences all still run h steps from now, they use U pages then, the largest of them u. However
likely each is to run then, with x the expected pages of those that do not, the mean of the use is
U - x and its variance at most u·x, as each pᵢ²·sᵢ(1 - sᵢ) is at most u·pᵢ(1 - sᵢ). So from the mean
to C pages it is at least (C - U + x)/√(u·x) ≥ 2·√((C - U)/u) standard deviations.
"""

from collections.abc import Iterable
from math import erfc, inf, sqrt
from typing import NamedTuple

from gateway.scheduling.requests import QueuedRequest, RunningSequence


class WorstCase(NamedTuple):
    """The sequences that run now: their number, pages, KV tokens, and those of the largest."""

    page_tokens: int
    sequences: int = 0
    pages: int = 0
    tokens: int = 0
    largest: int = 0

    @classmethod
    def of(cls, running: Iterable[RunningSequence], page_tokens: int) -> "WorstCase":
        """That of these sequences; prefixes that they share count with each."""
        held = [sequence.prompt_tokens + sequence.generated for sequence in running]
        pages = sum([-(-tokens // page_tokens) for tokens in held])
        return cls(page_tokens, len(held), pages, sum(held), max(held, default=0))

    def joined(self, request: QueuedRequest) -> "WorstCase":
        """The same with a request that starts now."""
        tokens = request.prompt_tokens
        return WorstCase(
            self.page_tokens,
            self.sequences + 1,
            self.pages - (-tokens // self.page_tokens),
            self.tokens + tokens,
            max(self.largest, tokens),
        )

    def deviations(self, pages: float, steps: float) -> float:
        """How many standard deviations below this size the use is for so long, at least.

        -inf if it may be more with all running.
        """
        most = (self.tokens + self.sequences * steps) / self.page_tokens + self.sequences
        if most > pages:
            return -inf
        largest = (self.largest + steps) / self.page_tokens + 1
        return 2 * sqrt((pages - most) / largest)

    def chance_beyond(self, pages: float, steps: float) -> float:
        """P(more than this number of pages are used at a step until then), at most.

        For a use that is taken to be normally distributed.
        """
        return erfc(self.deviations(pages, steps) / sqrt(2)) / 2
