"""Conversations with tools as a form's chat template takes them."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.generation.tools.definition import Function
from gateway.generation.tools.forms import FormName

SHORT_ID: Final = re.compile(r"[A-Za-z0-9]{9}")  # the only ids that Mistral's templates accept
PLAIN_KEYS: Final = frozenset({"role", "content"})
INSTRUCTION: Final = """\
You can call functions. Each of these lines describes one, with the JSON schema of its arguments:
{functions}
To call a function, write one line of this form, and another one for each further call:
<tool_call>{{"name": "name of the function", "arguments": {{"argument": "value"}}}}</tool_call>
The results are in the next message. If no call is needed, answer in plain text."""


def tool_prompt(
    form: FormName,
    messages: Sequence[Mapping[str, Any]],
    functions: Sequence[Function],
    *,
    system: bool,
) -> tuple[Sequence[Mapping[str, Any]], list[dict[str, Any]]]:
    """The messages, and the tools, that a chat template of this form is rendered with.

    For `json`, whose templates know no tools, all is text: functions in the system message, or in
    the first one if the template takes none (`system`), calls and results in messages of the
    assistant and of the user.
    """
    if form == "json":
        if not functions and not any(message.keys() - PLAIN_KEYS for message in messages):
            return messages, []
        return _described(messages, functions, system=system), []
    tools = [function.definition() for function in functions]
    if form == "mistral":
        messages = [_with_short_ids(message) for message in messages]
    return messages, tools


def _with_short_ids(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if "tool_call_id" in message:
        return {**message, "tool_call_id": short_id(message["tool_call_id"])}
    if "tool_calls" in message:
        calls = [{**call, "id": short_id(call["id"])} for call in message["tool_calls"]]
        return {**message, "tool_calls": calls}
    return message


def short_id(call_id: str) -> str:
    """The id of a call in nine letters and digits, as Mistral's templates require it."""
    if SHORT_ID.fullmatch(call_id):
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:9]


def _described(
    messages: Sequence[Mapping[str, Any]], functions: Sequence[Function], *, system: bool
) -> Sequence[Mapping[str, Any]]:
    turns: list[dict[str, Any]] = []
    after_result = False
    for message in messages:
        is_result = message["role"] == "tool"
        turn = {"role": message["role"], "content": message["content"]}
        if is_result:
            turn = {"role": "user", "content": _result(message)}
        elif "tool_calls" in message:
            lines = [message["content"], *map(_call, message["tool_calls"])]
            turn["content"] = "\n".join(filter(None, lines))
        if is_result and after_result:
            turns[-1]["content"] += f"\n{turn['content']}"
        else:
            turns.append(turn)
        after_result = is_result
    if functions:
        _instruct(turns, functions, system=system)
    return turns


def _instruct(turns: list[dict[str, Any]], functions: Sequence[Function], *, system: bool) -> None:
    """Add the description of the functions to the first message, or before it."""
    lines = "\n".join(_json(function.definition()["function"]) for function in functions)
    instruction = INSTRUCTION.format(functions=lines)
    first = turns[0]
    if not system:
        first["content"] = f"{instruction}\n\n{first['content']}"
    elif first["role"] in {"system", "developer"}:
        first["content"] = f"{first['content']}\n\n{instruction}"
    else:
        turns.insert(0, {"role": "system", "content": instruction})


def _call(call: Mapping[str, Any]) -> str:
    return f"<tool_call>{_json(call['function'])}</tool_call>"


def _result(message: Mapping[str, Any]) -> str:
    named = {"name": message["name"]} if "name" in message else {}
    return f"<tool_response>{_json({**named, 'content': message['content']})}</tool_response>"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
