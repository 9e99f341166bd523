"""Messages of a conversation in a body: their fields, and what the gateway makes of them."""

from collections.abc import Sequence
from typing import Any, Final, Literal

from msgspec import Struct

from gateway.api.openai.conversation.calls import CalledFunction
from gateway.api.openai.parameters import FieldRules, check_function_type
from gateway.errors import InvalidRequest, UnsupportedParameter, shortened
from gateway.generation.request import Message
from gateway.generation.tools.definition import ToolCall, call_id

REFUSED_IN_MESSAGE: Final[dict[str, tuple[object, ...]]] = {
    "annotations": ([],),
    "audio": (),
    "reasoning": ("",),
    "reasoning_content": ("",),
    "refusal": (),
}
# What LiteLLM adds to the answers that it passes on, and its clients send back.
FOREIGN: Final = "provider_specific_fields"
# The roles whose messages may have a field.
ROLES_OF_FIELD: Final[dict[str, tuple[str, ...]]] = {
    "tool_calls": ("assistant",),
    "function_call": ("assistant",),
    "tool_call_id": ("tool",),
    "name": ("tool", "function"),
}


class ContentPart(Struct):
    """One part of a message's content; only text is supported."""

    type: str
    text: str | None = None


class MessageCall(Struct):
    """A call that the assistant made earlier."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(Struct):
    """One turn of the conversation.

    The role `tool` is the result of the call `tool_call_id`; `function`, its older form, that of
    the last `function_call`.
    """

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    tool_calls: list[MessageCall] | None = None
    tool_call_id: str | None = None
    function_call: CalledFunction | None = None
    name: str | None = None

    def text(self, place: int) -> str:
        """The content, its parts concatenated. InvalidRequest for a part without text."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        for number, part in enumerate(self.content):
            if part.text is None:
                raise InvalidRequest(
                    f"messages[{place}].content[{number}].text: is required",
                    param=f"messages[{place}].content[{number}].text",
                )
        return "".join(part.text or "" for part in self.content)


MESSAGE: Final = FieldRules(
    frozenset(ChatMessage.__struct_fields__),
    ignored=frozenset({FOREIGN}),
    refused=REFUSED_IN_MESSAGE,
)
CALL: Final = FieldRules(
    frozenset(MessageCall.__struct_fields__), ignored=frozenset({"index", FOREIGN})
)
CALLED: Final = FieldRules(
    frozenset(CalledFunction.__struct_fields__), ignored=frozenset({FOREIGN})
)
PART: Final = FieldRules(
    frozenset(ContentPart.__struct_fields__),
    ignored=frozenset({"cache_control", "prompt_cache_breakpoint"}),
)


def read_messages(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """The turns of a conversation. InvalidRequest for a part without text, and for a result of a
    call that no earlier message has.
    """
    names: dict[str, str] = {}  # of the functions called so far, by the call's id
    turns = []
    for place, message in enumerate(messages):
        calls = _calls(message, place)
        names |= {call.id: call.name for call in calls}
        text = message.text(place)
        if message.role not in {"tool", "function"}:
            turns.append(Message(message.role, text, calls))
            continue
        result_of = _result_of(message, place, names)
        turns.append(Message("tool", text, (), result_of, message.name or names[result_of]))
    return tuple(turns)


def _calls(message: ChatMessage, place: int) -> tuple[ToolCall, ...]:
    calls = [
        ToolCall(call.id, call.function.name, call.function.arguments)
        for call in message.tool_calls or ()
    ]
    if message.function_call is not None:
        called = message.function_call
        calls.append(ToolCall(call_id("function", place), called.name, called.arguments))
    return tuple(calls)


def _result_of(message: ChatMessage, place: int, names: dict[str, str]) -> str:
    """The id of the call whose result a message is."""
    if message.role == "function":
        ids = [each for each, name in names.items() if name == message.name]
        if not ids:
            raise InvalidRequest(
                f"messages[{place}].name is {shortened(str(message.name))!r}; needed is the name "
                "of a function that an earlier function_call calls",
                param=f"messages[{place}].name",
            )
        return ids[-1]
    result_of, param = message.tool_call_id, f"messages[{place}].tool_call_id"
    if result_of is None:
        raise InvalidRequest(f"{param}: is required", param=param)
    if result_of not in names:
        raise InvalidRequest(
            f"{param} is {shortened(result_of)!r}; needed is the id of a call in the tool_calls of "
            "an earlier message",
            param=param,
        )
    return result_of


def screen_messages(fields: dict[str, Any]) -> list[str]:
    """Screen the messages of a body; the names of fields without effect. UnsupportedParameter."""
    ignored: list[str] = []
    messages = fields.get("messages")
    if isinstance(messages, list):
        fields["messages"] = [
            _screen_message(message, f"messages[{place}]", ignored)
            if isinstance(message, dict)
            else message
            for place, message in enumerate(messages)
        ]
    return ignored


def _screen_message(message: dict[str, Any], place: str, ignored: list[str]) -> dict[str, Any]:
    """The fields to convert; adds the names of those without effect. UnsupportedParameter."""
    fields, more = MESSAGE.screen(message, f"{place}.")
    ignored += [f"messages[].{name}" for name in more]
    if not fields.keys() <= {"role", "content"}:
        fields = _screen_calls(fields, place, ignored)
    content = fields.get("content")
    if not isinstance(content, list):
        return fields
    parts = [
        _screen_part(part, f"{place}.content[{number}]", ignored)
        if isinstance(part, dict)
        else part
        for number, part in enumerate(content)
    ]
    return {**fields, "content": parts}


def _screen_calls(fields: dict[str, Any], place: str, ignored: list[str]) -> dict[str, Any]:
    """Screen the fields that only some roles have; no calls are the same as an unset field."""
    kept = {name: value for name, value in fields.items() if (name, value) != ("tool_calls", [])}
    for name, roles in ROLES_OF_FIELD.items():
        if name in kept and kept.get("role") not in roles:
            raise UnsupportedParameter(
                f"{place}.{name} is not supported by this gateway in a message of this role; "
                f"accepted is {' or '.join(roles)}",
                param=f"{place}.{name}",
            )
    if isinstance(kept.get("function_call"), dict):
        called = f"{place}.function_call."
        kept["function_call"], more = CALLED.screen(kept["function_call"], called)
        ignored += [f"messages[].function_call.{name}" for name in more]
    if isinstance(kept.get("tool_calls"), list):
        kept["tool_calls"] = [
            _screen_call(call, f"{place}.tool_calls[{number}]", ignored)
            for number, call in enumerate(kept["tool_calls"])
        ]
    return kept


def _screen_call(call: Any, place: str, ignored: list[str]) -> Any:
    if not isinstance(call, dict):
        return call
    check_function_type(call, place)
    kept, more = CALL.screen(call, f"{place}.")
    ignored += [f"messages[].tool_calls[].{name}" for name in more]
    if isinstance(kept.get("function"), dict):
        kept["function"], more = CALLED.screen(kept["function"], f"{place}.function.")
        ignored += [f"messages[].tool_calls[].function.{name}" for name in more]
    return kept


def _screen_part(part: dict[str, Any], place: str, ignored: list[str]) -> dict[str, Any]:
    """The fields to convert; adds the names of those without effect. UnsupportedParameter."""
    kind = part.get("type", "text")
    if isinstance(kind, str) and kind != "text":
        raise UnsupportedParameter(
            f"{place}: a part of type {shortened(kind)!r} is not supported by this gateway; "
            "accepted is 'text'",
            param=place,
        )
    fields, more = PART.screen(part, f"{place}.")
    ignored += [f"messages[].content[].{name}" for name in more]
    return fields
