"""The forms in which model families write tool calls, and which of them a chat template expects."""

import re
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from gateway.generation.tools.call_reader import CallReader
from gateway.generation.tools.growing_text import BLANK, Steps

FormName: TypeAlias = Literal["hermes", "llama3", "mistral", "json"]

NAME: Final = re.compile(r"[\w.-]*")


class HermesCalls(CallReader):
    """`<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes and Qwen."""

    marker = "<tool_call>"
    end = "</tool_call>"


class Llama3Calls(CallReader):
    """`{"name": …, "parameters": {…}}`, several separated by `;`: Llama 3.

    `<|python_tag|>` may precede them.
    """

    marker = "<|python_tag|>"
    unmarked = True


class MistralCalls(CallReader):
    """`[TOOL_CALLS][{"name": …, "arguments": {…}}]`: Mistral.

    Newer models write `[TOOL_CALLS]name[ARGS]{…}` for each call, some `[CALL_ID]id` after the name.
    """

    marker = "[TOOL_CALLS]"

    def _marked_calls(self) -> Steps[None]:
        text = self._text
        yield from text.run(BLANK)
        if (yield from text.next()) in {"[", "{"}:
            yield from self._listed_calls(known=False)
            return
        name: list[str] = []
        yield from text.run(NAME, name.append)
        if (yield from text.passed("[CALL_ID]")):
            yield from text.run(NAME)
        yield from text.passed("[ARGS]")
        yield from text.run(BLANK)
        if any(name) and (yield from text.next()) == "{":
            self.begin_call("".join(name))
            yield from text.value(self.add_arguments)


class JsonCalls(HermesCalls):
    """Hermes's form, whose marks a model that was not trained on it may leave out."""

    unmarked = True


READERS: Final[Mapping[FormName, type[CallReader]]] = {
    "hermes": HermesCalls,
    "llama3": Llama3Calls,
    "mistral": MistralCalls,
    "json": JsonCalls,
}
# Marks that may be control tokens, which an answer's text otherwise leaves out.
MARKS: Final = (
    "<tool_call>",
    "</tool_call>",
    "<|python_tag|>",
    "[TOOL_CALLS]",
    "[CALL_ID]",
    "[ARGS]",
)


def form_of_template(source: str) -> FormName:
    """The form of calls that a chat template writes; `json` if it is none of the others."""
    if "[TOOL_CALLS]" in source:
        return "mistral"
    if "<tool_call>" in source and "<function=" not in source:  # that is Qwen3-Coder's own
        return "hermes"
    if "<|python_tag|>" in source or ("<|start_header_id|>" in source and '"parameters"' in source):
        return "llama3"
    return "json"
