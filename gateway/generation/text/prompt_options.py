"""How a request wants its prompt made."""

from typing import Any

from msgspec import Struct


class PromptOptions(Struct, frozen=True):
    """How a prompt's tokens are made.

    `variables` go to the chat template; the answer is opened by it (`opens_answer`), or continues
    the final message (`continues_final`). Of a prompt with more tokens than `most_tokens` the end
    is kept, or the start; -1: than leave room for the answer.
    """

    variables: dict[str, Any] = {}
    opens_answer: bool = True
    continues_final: bool = False
    most_tokens: int | None = None
    keeps_end: bool = True

    def truncated(self, prompt: list[int], room: int) -> list[int]:
        """The tokens of a prompt that are kept; `room` is what the answer leaves."""
        if self.most_tokens is None:
            return prompt
        most = max(room, 1) if self.most_tokens < 0 else self.most_tokens
        return prompt[-most:] if self.keeps_end else prompt[:most]
