"""Tool calls in answers, whole and in the events of a stream."""

from collections.abc import Iterable
from typing import Self

from msgspec import UNSET, Struct, UnsetType

from gateway.generation.request_state import RequestState
from gateway.generation.tools.call_reader import AnswerDelta, CallDelta
from gateway.generation.tools.definition import CallFormat, call_id


class CalledFunction(Struct):
    """The name of a called function, and its arguments: JSON text as the model wrote it."""

    name: str
    arguments: str


class AnsweredCall(Struct):
    """A call in an answer."""

    id: str
    function: CalledFunction
    type: str = "function"


class AnswerMessage(Struct):
    """The whole answer; `content` is null if it only calls functions."""

    content: str | None
    role: str = "assistant"
    refusal: None = None
    tool_calls: list[AnsweredCall] | UnsetType = UNSET
    function_call: CalledFunction | UnsetType = UNSET

    @classmethod
    def of(cls, state: RequestState, text: str) -> Self:
        """The message of an answer with this text."""
        reader = state.calls
        if reader is None:
            return cls(text)
        delta = joined(reader.feed(text), reader.finish())
        called = [CalledFunction(call.name or "", call.arguments) for call in delta.calls]
        if not called:
            return cls(delta.content)
        content = delta.content or None
        if _format(state) == "function_call":
            return cls(content, function_call=called[0])
        ids = (call_id(state.id.hex, index) for index in range(len(called)))
        return cls(content, tool_calls=list(map(AnsweredCall, ids, called)))


class FunctionDelta(Struct, omit_defaults=True):
    """What a called function gains: its name at first, then its arguments."""

    arguments: str
    name: str | None = None


class ToolCallDelta(Struct, omit_defaults=True):
    """What a call gains; id and type come at first."""

    index: int
    function: FunctionDelta
    id: str | None = None
    type: str | None = None

    @classmethod
    def of(cls, state: RequestState, call: CallDelta) -> Self:
        """A part of a call of this answer."""
        function = FunctionDelta(call.arguments, call.name)
        if call.name is None:
            return cls(call.index, function)
        return cls(call.index, function, call_id(state.id.hex, call.index), "function")


class Delta(Struct, omit_defaults=True):
    """The part that a chunk adds to the answer."""

    role: str | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] = []
    function_call: FunctionDelta | None = None

    @classmethod
    def of(cls, state: RequestState, text: str, *, ended: bool = False) -> Self:
        """What the answer gains by this text; `ended`: and by its end."""
        reader = state.calls
        if reader is None:
            return cls(content=None if ended else text)
        delta = reader.feed(text)
        if ended:
            delta = joined(delta, reader.finish())
        content = delta.content or None
        if _format(state) == "function_call" and delta.calls:
            (call,) = delta.calls
            return cls(content=content, function_call=FunctionDelta(call.arguments, call.name))
        calls = [ToolCallDelta.of(state, call) for call in delta.calls]
        return cls(content=content, tool_calls=calls)


def finish_reason(state: RequestState) -> str | None:
    """Why the answer ended: for its calls, if it has any and ended by itself."""
    reader = state.calls
    if reader is None or not reader.count or state.finish_reason != "stop":
        return state.finish_reason
    return _format(state)


def joined(*deltas: AnswerDelta) -> AnswerDelta:
    """What an answer gains by several parts together."""
    calls: dict[int, CallDelta] = {}
    for call in _calls(deltas):
        gained = calls.setdefault(call.index, CallDelta(call.index, call.name))
        gained.arguments += call.arguments
    return AnswerDelta("".join(delta.content for delta in deltas), list(calls.values()))


def _calls(deltas: Iterable[AnswerDelta]) -> Iterable[CallDelta]:
    return (call for delta in deltas for call in delta.calls)


def _format(state: RequestState) -> CallFormat:
    use = state.request.tools
    return "tool_calls" if use is None else use.format
