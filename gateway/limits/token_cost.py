"""What the tokens of a request cost."""

from decimal import Decimal
from math import ceil

from msgspec import Struct


class TokenCost(Struct, frozen=True):
    """What a token costs, in billionths of the currency unit; `cached` one that was computed before
    for another prompt.
    """

    prompt: Decimal = Decimal(0)
    cached: Decimal = Decimal(0)
    generated: Decimal = Decimal(0)

    def of(self, prompt_tokens: int, generated_tokens: int, cached_tokens: int = 0) -> int:
        """The cost of tokens in whole billionths, rounded up; the prompt's have the cached ones."""
        return ceil(
            (prompt_tokens - cached_tokens) * self.prompt
            + cached_tokens * self.cached
            + generated_tokens * self.generated
        )
