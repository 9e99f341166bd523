"""The host tier: KV memory of preempted sequences in host memory, where that is worth it."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor


@dataclass(eq=False, slots=True)
class SwappedPages:
    """Keys and values of a preempted sequence in host memory.

    `content` is (2, layers, pages, kv_heads, page_tokens, head_dim), or None before the copy.
    """

    tokens: int
    pages: int
    content: Tensor | None = None


class RestoreCosts:
    """Measured costs of restoring a preempted sequence: copying a page, computing a token.

    Both are exponential moving averages with weight `SMOOTHING`.
    """

    SMOOTHING: ClassVar[float] = 0.1

    def __init__(self, page_copy_s: float, token_s: float) -> None:
        self.page_copy_s = page_copy_s
        self.token_s = token_s

    def swap_is_cheaper(self, pages: int, tokens: int) -> bool:
        """Whether copying pages out and in costs less than recomputing their tokens."""
        return 2 * pages * self.page_copy_s < tokens * self.token_s

    def observe(self, pages: int, copy_s: float, tokens: int, model_s: float) -> None:
        """Record a step: pages copied one way, and prompt tokens computed; 0 for none."""
        if pages:
            self.page_copy_s += self.SMOOTHING * (copy_s / pages - self.page_copy_s)
        if tokens:
            self.token_s += self.SMOOTHING * (model_s / tokens - self.token_s)


class HostTier:
    """A limited number of pages in host memory."""

    def __init__(self, pages: int, costs: RestoreCosts) -> None:
        self.pages = pages
        self.used = 0
        self.swaps = 0  # copies out since the start
        self.costs = costs

    def reserve(self, pages: int, tokens: int) -> SwappedPages | None:
        """Reserve pages for a sequence; None if there are too few or recomputing is cheaper."""
        if self.used + pages > self.pages or not self.costs.swap_is_cheaper(pages, tokens):
            return None
        self.used += pages
        self.swaps += 1
        return SwappedPages(tokens, pages)

    def discard(self, swapped: SwappedPages) -> None:
        """Free the pages of a copy that is restored or no longer needed."""
        self.used -= swapped.pages
