"""The host tier: what preempted sequences had computed, and whether keeping it pays."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor


@dataclass(eq=False, slots=True)
class SwappedPages:
    """A preempted sequence's keys and values in host memory.

    `content` is (2, layers, pages, kv_heads, page_tokens, head_dim), None until the copy is made.
    """

    tokens: int
    pages: int
    content: Tensor | None = None


class RestoreCosts:
    """What it costs to give a preempted sequence its memory back, as measured here.

    Both costs are averages that follow the machine: each new measurement counts a tenth.
    """

    SMOOTHING: ClassVar[float] = 0.1

    def __init__(self, page_copy_s: float, token_s: float) -> None:
        self.page_copy_s = page_copy_s
        self.token_s = token_s

    def swap_is_cheaper(self, pages: int, tokens: int) -> bool:
        """Whether copying pages out and in costs less than computing their tokens again."""
        return 2 * pages * self.page_copy_s < tokens * self.token_s

    def observe(self, pages: int, copy_s: float, tokens: int, model_s: float) -> None:
        """A step copied so many pages, one way, and computed so many prompt tokens; 0 for none."""
        if pages:
            self.page_copy_s += self.SMOOTHING * (copy_s / pages - self.page_copy_s)
        if tokens:
            self.token_s += self.SMOOTHING * (model_s / tokens - self.token_s)


class HostTier:
    """A bounded number of pages in host memory."""

    def __init__(self, pages: int, costs: RestoreCosts) -> None:
        self.pages = pages
        self.used = 0
        self.costs = costs

    def reserve(self, pages: int, tokens: int) -> SwappedPages | None:
        """Room for a sequence's pages; None where there is none or computing again is cheaper."""
        if self.used + pages > self.pages or not self.costs.swap_is_cheaper(pages, tokens):
            return None
        self.used += pages
        return SwappedPages(tokens, pages)

    def discard(self, swapped: SwappedPages) -> None:
        """A sequence has its pages back, or needs them no more."""
        self.used -= swapped.pages
