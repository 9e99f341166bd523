"""A text that is read from left to right while it grows."""

import re
from collections.abc import Callable, Generator
from typing import Final, TypeAlias, TypeVar

import msgspec

T = TypeVar("T")
# A reading, which yields where it needs more of the text.
Steps: TypeAlias = Generator[None, None, T]

BLANK: Final = re.compile(r"\s*")
SCALAR: Final = re.compile(r'[^\s,{}\[\]"]*')
UP_TO_BRACKET: Final = re.compile(r'[^"{}\[\]<]*')  # `<`: no JSON, but the end of a marked call
UP_TO_QUOTE: Final = re.compile(r'[^"\\]*')


class GrowingText:
    """The part of a text that is not read yet, from `at` on, or from the mark on if one is set.

    Each reading waits until what it returns depends on no further text, so that it returns the
    same however the text was cut into pieces.
    """

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.mark: int | None = None
        self.ended = False

    def add(self, piece: str) -> None:
        """Append a piece, and forget what was read."""
        begin = self.at if self.mark is None else self.mark
        self.text = self.text[begin:] + piece
        self.at -= begin
        self.mark = None if self.mark is None else 0

    def marked(self) -> str:
        """The text from the mark on that was read; removes the mark."""
        begin, self.mark = self.mark, None
        return "" if begin is None else self.text[begin : self.at]

    def rewind(self) -> None:
        """Go back to the mark and remove it."""
        if self.mark is not None:
            self.at, self.mark = self.mark, None

    def next(self) -> Steps[str]:
        """The next character, which stays unread; empty at the end."""
        while self.at == len(self.text) and not self.ended:
            yield
        return self.text[self.at : self.at + 1]

    def run(self, pattern: re.Pattern[str], take: Callable[[str], object] = str) -> Steps[None]:
        """Read what matches a pattern of the form `[…]*`, and pass it on as it comes."""
        while (yield from self.next()):
            found = pattern.match(self.text, self.at)
            assert found is not None
            take(found[0])
            self.at = found.end()
            if self.at < len(self.text):
                return

    def passed(self, literal: str) -> Steps[bool]:
        """Read this literal if it is next; at the end of the text its beginning suffices."""
        while True:
            found = self.text[self.at : self.at + len(literal)]
            if not literal.startswith(found):
                return False
            if found == literal or self.ended:
                self.at += len(found)
                return bool(found)
            yield

    def string(self) -> Steps[str | None]:
        """Read the JSON string that begins here; None if it is none or does not end."""
        pieces: list[str] = []
        yield from self._string(pieces.append)
        try:
            return msgspec.json.decode("".join(pieces), type=str)
        except (msgspec.DecodeError, UnicodeEncodeError):
            return None

    def value(self, take: Callable[[str], object]) -> Steps[bool]:
        """Read the JSON value that begins here, and pass it on as it comes; False if it is not
        complete. Of objects and lists, only the brackets and strings are checked.
        """
        first = yield from self.next()
        if first == '"':
            return (yield from self._string(take))
        if first not in ("{", "["):
            scalar: list[str] = []
            yield from self.run(SCALAR, scalar.append)
            take("".join(scalar))
            return any(scalar)
        depth = 0
        while True:
            yield from self.run(UP_TO_BRACKET, take)
            following = yield from self.next()
            if following == '"':
                if not (yield from self._string(take)):
                    return False
                continue
            if following in ("", "<"):
                return False
            self.at += 1
            take(following)
            depth += 1 if following in "{[" else -1
            if not depth:
                return True

    def _string(self, take: Callable[[str], object]) -> Steps[bool]:
        """Read a string with its quotes, and pass it on as it comes; False if it does not end."""
        self.at += 1
        take('"')
        while True:
            yield from self.run(UP_TO_QUOTE, take)
            following = yield from self.next()
            if following:
                self.at += 1
                take(following)
            if following == "\\":
                escaped = yield from self.next()
                self.at += len(escaped)
                take(escaped)
            else:
                return following == '"'
