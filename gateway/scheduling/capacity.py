"""The KV pool that requests are admitted to."""

from msgspec import Struct

from gateway.scheduling.waiting import Waiting


class Capacity(Struct, frozen=True):
    """The size of the KV pool."""

    pages: int
    page_tokens: int

    @property
    def tokens(self) -> int:
        """Token slots in the pool: Θ in tokens."""
        return self.pages * self.page_tokens

    def pages_for(self, tokens: float) -> int:
        """Pages that hold so many tokens."""
        return int(-(-tokens // self.page_tokens))

    def holds(self, request: Waiting) -> bool:
        """Whether the request fits at its longest with the pool to itself."""
        return self.longest_pages(request) <= self.pages

    def longest_pages(self, request: Waiting) -> int:
        """Pages the request takes at its longest."""
        return self.pages_for(request.prompt_tokens + request.max_tokens)


NO_CAPACITY = Capacity(pages=0, page_tokens=1)
