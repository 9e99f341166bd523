"""Keeps control tokens that a client wrote into structured values from acting as such."""

import re
from collections.abc import Iterator
from typing import Any


class ForgedTexts:
    """Replaces texts that `control` matches by marks, in strings of any depth, until a chat
    template has rendered them.
    """

    def __init__(self, control: re.Pattern[str], secret: str) -> None:
        """`secret`: what no client can have written; each mark begins with it."""
        self.texts: list[str] = []
        self._control = control
        self._secret = secret

    def replaced(self, value: Any) -> Any:
        """The value with marks for the texts."""
        if isinstance(value, str):
            return self._control.sub(self._mark, value)
        if isinstance(value, dict):
            return {self.replaced(key): self.replaced(each) for key, each in value.items()}
        return [self.replaced(each) for each in value] if isinstance(value, list) else value

    def restored(self, text: str, plain: bool) -> Iterator[tuple[str, bool]]:
        """A rendered text in parts, and whether the control tokens of each are plain text."""
        if not self.texts or plain:
            yield text, plain
            return
        for number, piece in enumerate(re.split(rf"{self._secret}-(\d+)\.", text)):
            yield (self.texts[int(piece)], True) if number % 2 else (piece, False)

    def _mark(self, found: re.Match[str]) -> str:
        self.texts.append(found[0])
        return f"{self._secret}-{len(self.texts) - 1}."
