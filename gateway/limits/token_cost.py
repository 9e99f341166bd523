"""What the tokens of a request cost."""

from decimal import Decimal
from math import ceil

from msgspec import Struct


class TokenCost(Struct, frozen=True):
    """What a token costs, in billionths of the currency unit."""

    prompt: Decimal = Decimal(0)
    generated: Decimal = Decimal(0)

    def of(self, prompt_tokens: int, generated_tokens: int) -> int:
        """The cost of tokens in whole billionths, rounded up."""
        return ceil(prompt_tokens * self.prompt + generated_tokens * self.generated)
