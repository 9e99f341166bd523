"""The functions that a request offers, and the calls of them in its conversation."""

import hashlib
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

# How an answer carries its calls: OpenAI's `tool_calls`, or its older `function_call`.
CallFormat: TypeAlias = Literal["tool_calls", "function_call"]

NO_PARAMETERS: Final[dict[str, Any]] = {"type": "object", "properties": {}}


class Function(Struct, frozen=True):
    """A function that the model may call; `parameters` is the JSON schema of its arguments.

    `strict`: its arguments must match the schema wherever it is called.
    """

    name: str
    description: str | None = None
    parameters: dict[str, Any] = msgspec.field(default_factory=NO_PARAMETERS.copy)
    strict: bool = False

    def definition(self) -> dict[str, Any]:
        """The function in the form that chat templates read."""
        described = {} if self.description is None else {"description": self.description}
        function = {"name": self.name, **described, "parameters": self.parameters}
        return {"type": "function", "function": function}


class ToolUse(Struct, frozen=True):
    """The functions that the model knows of, and which calls its answer may have.

    `numbers` are the places of the functions among those of the request; empty: they are all.
    `required`: the answer is at least one call, of one of the functions in `callable`; all of them
    if that is empty. Without `parallel` it has at most one call.
    """

    functions: tuple[Function, ...]
    required: bool = False
    callable: tuple[str, ...] = ()
    parallel: bool = True
    format: CallFormat = "tool_calls"
    numbers: tuple[int, ...] = ()

    @property
    def param(self) -> str:
        """The API parameter that has the functions."""
        return "tools" if self.format == "tool_calls" else "functions"

    @property
    def place(self) -> str:
        """Where in its items a function's fields are."""
        return "function." if self.format == "tool_calls" else ""

    def parameters_of(self, function: Function) -> str:
        """The API parameter that has the schema of a function's arguments."""
        number = self.functions.index(function)
        number = self.numbers[number] if self.numbers else number
        return f"{self.param}[{number}].{self.place}parameters"

    @property
    def names(self) -> list[str]:
        """The names of all functions."""
        return [function.name for function in self.functions]

    @property
    def callable_functions(self) -> list[Function]:
        """The functions that may be called."""
        named = self.callable
        return [each for each in self.functions if not named or each.name in named]

    @property
    def summary(self) -> str:
        """Name and description of each function, a line each."""
        lines = (f"{each.name}: {each.description or ''}".rstrip(" :") for each in self.functions)
        return "\n".join(lines)

    @property
    def size(self) -> int:
        """Bytes of the functions as JSON, which has at least as many characters when rendered."""
        return len(msgspec.json.encode(self.functions))


class ToolCall(Struct, frozen=True):
    """A call in the conversation; `arguments` is the JSON text that the model wrote."""

    id: str
    name: str
    arguments: str

    def to_template(self) -> dict[str, Any]:
        """The call in the form that chat templates read: arguments are an object if they are one.

        What is no JSON object stays a text: a model's mistake may be sent back to it.
        """
        function = {"name": self.name, "arguments": self.decoded_arguments}
        return {"id": self.id, "type": "function", "function": function}

    @property
    def decoded_arguments(self) -> dict[str, Any] | str:
        """The arguments as an object, or their text if it is not the text of an object."""
        try:
            return msgspec.json.decode(self.arguments or "{}", type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            return self.arguments


def call_id(request_id: str, index: int) -> str:
    """The id of a request's call: the same for the same request, and in no other."""
    digest = hashlib.sha256(f"{request_id} {index}".encode()).hexdigest()
    return f"call_{digest[:24]}"
