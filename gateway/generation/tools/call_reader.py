"""Separates the tool calls in an answer from its content, while the answer grows."""

import re
from collections.abc import Collection
from typing import Final

import msgspec
from msgspec import Struct

from gateway.generation.tools.growing_text import BLANK, GrowingText, Steps

NAME_KEY: Final = "name"
ARGUMENT_KEYS: Final = frozenset({"arguments", "parameters"})
OTHER_KEYS: Final = frozenset({"id", "type"})
MAX_BLANK: Final = 64  # characters of white space before a call that are dropped
SEPARATOR: Final = re.compile(r"[\s,;\[\]}]*")  # before, between and after calls
NO_ARGUMENTS: Final = "{}"


class CallDelta(Struct):
    """What a call gains: its name at first, then its arguments in pieces."""

    index: int
    name: str | None = None
    arguments: str = ""


class AnswerDelta(Struct, frozen=True):
    """What an answer gains: content, and calls or parts of calls."""

    content: str = ""
    calls: list[CallDelta] = []

    def __bool__(self) -> bool:
        return bool(self.content or self.calls)


class CallReader:
    """Text in pieces in, content and tool calls out; where pieces begin changes nothing.

    A call is reported once its name is known and its arguments begin; these are passed on as the
    model writes them. What has no name, or arguments that are no object, is content. White space
    next to a call is dropped.

    `names` are the functions that the request offers; calls after the first `most` are dropped.
    """

    marker: str = ""  # begins a call, or several
    end: str = ""  # of the calls after a marker, where it has one
    unmarked: bool = False  # whether calls may also be the beginning of the answer

    def __init__(self, names: Collection[str], most: int | None = None) -> None:
        self.count = 0  # of calls so far, dropped ones too
        self._names = frozenset(names)
        self._most = most
        self._text = GrowingText()
        self._content: list[str] = []
        self._calls: dict[int, CallDelta] = {}
        self._reading: Steps[None] | None = None

    def feed(self, piece: str) -> AnswerDelta:
        """What the answer gains by this text."""
        if self._reading is None:
            self._reading = self._read()
        self._text.add(piece)
        next(self._reading, None)
        delta = AnswerDelta("".join(self._content), list(self._calls.values()))
        self._content, self._calls = [], {}
        return delta

    def finish(self) -> AnswerDelta:
        """What is left after the last text."""
        self._text.ended = True
        delta = self.feed("")
        self.close()
        return delta

    def close(self) -> None:
        """Stop reading: the reading and its reader refer to each other."""
        if self._reading is not None:
            self._reading.close()

    def offers(self, name: str) -> bool:
        """Whether the request has a function of this name."""
        return name in self._names

    def begin_call(self, name: str) -> None:
        """Note a call, to whose arguments is added from now on."""
        index, self.count = self.count, self.count + 1
        self._text.mark = None
        if self._kept(index):
            self._calls[index] = CallDelta(index, name)

    def add_arguments(self, piece: str) -> None:
        """Append to the arguments of the last call."""
        index = self.count - 1
        if piece and self._kept(index):
            self._calls.setdefault(index, CallDelta(index)).arguments += piece

    def _kept(self, index: int) -> bool:
        return self._most is None or index < self._most

    def _read(self) -> Steps[None]:
        text = self._text
        if self.unmarked:
            text.mark = text.at
            yield from self._listed_calls(known=True)
            text.rewind()
        while (yield from self._content_before_marker()):
            yield from self._marked_calls()
            self._content.append(text.marked())

    def _content_before_marker(self) -> Steps[bool]:
        """Read content up to the next marker and the marker; False if the text ends before.

        The mark is then where the content ends.
        """
        text = self._text
        if self.count:
            yield from text.run(BLANK)
        while True:
            place = text.text.find(self.marker, text.at)
            known = place if place >= 0 else len(text.text) - self._begun_marker()
            content = text.text[text.at : known]
            if place >= 0 or not text.ended:
                blank = min(len(content) - len(content.rstrip()), MAX_BLANK)
                content = content[: len(content) - blank]
            else:
                content = text.text[text.at :]
            self._content.append(content)
            text.at += len(content)
            if place >= 0:
                text.mark, text.at = text.at, place + len(self.marker)
                return True
            if text.ended:
                return False
            yield

    def _begun_marker(self) -> int:
        """Length of the longest suffix of the text that begins a marker."""
        text = self._text
        most = min(len(self.marker) - 1, len(text.text) - text.at)
        sizes = range(most, 0, -1)
        return next((size for size in sizes if self.marker.startswith(text.text[-size:])), 0)

    def _marked_calls(self) -> Steps[None]:
        """Read the calls after a marker. The mark stays before what is no call."""
        yield from self._listed_calls(known=False)

    def _listed_calls(self, *, known: bool) -> Steps[None]:
        """Read JSON objects that are calls, up to the end marker or to what is no call.

        `known`: only calls of functions that the request has. The mark stays before what is no
        call.
        """
        text, before = self._text, self.count
        while True:
            yield from text.run(SEPARATOR)
            if text.mark is None:
                text.mark = text.at
            if (yield from text.next()) == "{":
                if not (yield from _JsonCall(self, text, known=known).read()):
                    return
            elif self.count > before and self.end:
                yield from text.passed(self.end)
                text.mark = None
                return
            else:
                return


class _JsonCall:
    """Reads one JSON object that is a call if it has a name and arguments."""

    def __init__(self, reader: CallReader, text: GrowingText, *, known: bool) -> None:
        self._reader = reader
        self._text = text
        self._known = known
        self._name: str | None = None
        self._arguments: str | None = None  # if they come before the name
        self._begun = False

    def read(self) -> Steps[bool]:
        """Read the object that begins here; False if it is no call.

        Whatever follows the begin of its arguments, it stays a call.
        """
        text = self._text
        following = ","
        while following == ",":
            text.at += 1
            if not (yield from self._member()):
                return self._begun
            yield from text.run(BLANK)
            following = yield from text.next()
        if following == "}":
            text.at += 1
            if self._name is not None and not self._begun:
                self._begin(NO_ARGUMENTS)
        return self._begun

    def _member(self) -> Steps[bool]:
        """Read a key and its value; False if they belong to no call."""
        text = self._text
        yield from text.run(BLANK)
        if (yield from text.next()) != '"':
            return False
        key = yield from text.string()
        yield from text.run(BLANK)
        if not (yield from text.passed(":")):
            return False
        yield from text.run(BLANK)
        if key == NAME_KEY and self._name is None:
            return (yield from self._read_name())
        if key in ARGUMENT_KEYS and self._arguments is None and not self._begun:
            return (yield from self._read_arguments())
        if key in OTHER_KEYS or self._begun:
            return (yield from text.value(len))
        return False

    def _read_name(self) -> Steps[bool]:
        if (yield from self._text.next()) != '"':
            return False
        self._name = yield from self._text.string()
        if not self._name or (self._known and not self._reader.offers(self._name)):
            return False
        if self._arguments is not None:
            self._begin(self._arguments)
        return True

    def _read_arguments(self) -> Steps[bool]:
        first = yield from self._text.next()
        if first == "{" and self._name is not None:
            self._begin("")
            return (yield from self._text.value(self._reader.add_arguments))
        if first == '"':
            written = (yield from self._text.string()) or ""
        else:
            pieces: list[str] = []
            if not (yield from self._text.value(pieces.append)):
                return False
            written = NO_ARGUMENTS if pieces == ["null"] else "".join(pieces)
        if not _is_object(written):
            return False
        self._arguments = written
        if self._name is not None:
            self._begin(written)
        return True

    def _begin(self, arguments: str) -> None:
        self._begun = True
        assert self._name is not None
        self._reader.begin_call(self._name)
        self._reader.add_arguments(arguments)


def _is_object(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return False
    return True
