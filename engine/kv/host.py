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

    def fill(self, content: Tensor) -> None:
        """Keep the copied keys and values, unless they were given up since they were ordered.

        The model's thread copies while the step loop may give up.
        """
        self.content = content
        if not self.pages:
            self.content = None

    def give_up(self) -> None:
        """Forget the copy: its sequence is recomputed."""
        self.tokens = self.pages = 0
        self.content = None


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
    """A limited number of pages in host memory; copies of background work yield to others."""

    def __init__(self, pages: int, costs: RestoreCosts) -> None:
        self.pages = pages
        self.used = 0
        self.swaps = 0  # copies out since the start
        self.costs = costs
        self._yielding: dict[SwappedPages, None] = {}  # background's, oldest first
        self._yielding_pages = 0

    @property
    def page_copy_s(self) -> float:
        """Seconds to copy a page, as measured; 0 where none is ever copied."""
        return self.costs.page_copy_s if self.pages else 0.0

    def reserve(self, pages: int, tokens: int, *, background: bool = False) -> SwappedPages | None:
        """Reserve pages for a sequence; None if there are too few or recomputing is cheaper.

        For one that is not background, copies of background work are given up, oldest first.
        """
        available = self.pages - self.used + (0 if background else self._yielding_pages)
        if pages > available or not self.costs.swap_is_cheaper(pages, tokens):
            return None
        while self.used + pages > self.pages:
            oldest = next(iter(self._yielding))
            self.discard(oldest)
            oldest.give_up()
        swapped = SwappedPages(tokens, pages)
        if background:
            self._yielding[swapped] = None
            self._yielding_pages += pages
        self.used += pages
        self.swaps += 1
        return swapped

    def discard(self, swapped: SwappedPages) -> None:
        """Free the pages of a copy that is restored or no longer needed."""
        self.used -= swapped.pages
        if swapped in self._yielding:
            del self._yielding[swapped]
            self._yielding_pages -= swapped.pages
