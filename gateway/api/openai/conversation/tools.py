"""The fields by which a request offers tools, and by which messages carry calls and results."""

import re
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from gateway.api.openai.parameters import FieldRules, check_function_type
from gateway.api.openai.sampling_schema import SamplingRequest
from gateway.api.validation import convert_strictly
from gateway.errors import InvalidRequest, UnsupportedParameter, shortened
from gateway.generation.tools.definition import (
    NO_PARAMETERS,
    CallFormat,
    Function,
    ToolUse,
)

MAX_TOOLS: Final = 128
MAX_TOOL_BYTES: Final = 1 << 18  # of all definitions as JSON
NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
MODES: Final = ("none", "auto", "required")

Names: TypeAlias = tuple[str, ...]


class FunctionDefinition(Struct):
    """A function that the model may call; `parameters` is a JSON schema of its arguments."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct):
    """A tool; only functions are supported."""

    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(Struct):
    """Names a function that the request offers."""

    name: str


class NamedTool(Struct):
    """Names a tool that the request offers."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(Struct):
    """The tools that may be called in this turn."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class AllowedToolsChoice(Struct):
    """Limits the calls of an answer to some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


TOOL: Final = FieldRules(frozenset(Tool.__struct_fields__))
FUNCTION: Final = FieldRules(frozenset(FunctionDefinition.__struct_fields__))


class Choice(NamedTuple):
    """Whether an answer calls functions, and which: all of them if none are named."""

    mode: str
    names: Names | None = None
    single: bool = False


class ToolFields(SamplingRequest, kw_only=True):
    """The fields by which a request offers tools; `functions` is the older form of `tools`."""

    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionDefinition] | None = None
    function_call: str | dict[str, Any] | None = None

    def tool_use(self) -> ToolUse | None:
        """The tools of the request; None if it offers none, or the answer must not call them.

        InvalidRequest names a field that is not accepted.
        """
        tools, functions = self.tools or (), self.functions or ()
        if tools and functions:
            raise InvalidRequest(
                "tools and functions are both set; accepted is one of them", param="functions"
            )
        definitions = [tool.function for tool in tools] or functions
        form: CallFormat = "function_call" if functions else "tool_calls"
        offered = ToolUse(tuple(map(_function, definitions)), format=form)
        _check(offered)
        choice = self._choice(offered)
        if not definitions or choice.mode == "none":
            return None
        allowed = offered.names if choice.names is None else choice.names
        if choice.mode == "auto":
            shown = [n for n, each in enumerate(offered.functions) if each.name in allowed]
            offered = msgspec.structs.replace(
                offered,
                functions=tuple(offered.functions[number] for number in shown),
                numbers=tuple(shown),
            )
        one = functions or choice.single or self.parallel_tool_calls is False
        return msgspec.structs.replace(
            offered,
            required=choice.mode == "required",
            callable=tuple(allowed),
            parallel=not one,
        )

    def _choice(self, offered: ToolUse) -> Choice:
        """What `tool_choice` or `function_call` ask for."""
        older = offered.format == "function_call"
        for name, value, needed, fits in (
            ("tool_choice", self.tool_choice, "tools", not older),
            ("function_call", self.function_call, "functions", older),
        ):
            if value not in (None, "auto", "none") and not (fits and offered.functions):
                raise InvalidRequest(f"{name} is only accepted with {needed}", param=name)
        if older:
            return _function_choice(self.function_call, offered.names)
        return _tool_choice(self.tool_choice, offered.names)


def screen_tools(fields: dict[str, Any]) -> None:
    """Screen the tools of a body. UnsupportedParameter names one that is not accepted."""
    fields |= {
        name: [_screened(name, place, item) for place, item in enumerate(fields[name])]
        for name in ("tools", "functions")
        if isinstance(fields.get(name), list)
    }


def _screened(name: str, place: int, item: Any) -> Any:
    where = f"{name}[{place}]"
    if not isinstance(item, dict):
        return item
    if name == "functions":
        return FUNCTION.screen(item, f"{where}.")[0]
    check_function_type(item, where)
    kept, _ = TOOL.screen(item, f"{where}.")
    if isinstance(kept.get("function"), dict):
        kept["function"] = FUNCTION.screen(kept["function"], f"{where}.function.")[0]
    return kept


def _function(definition: FunctionDefinition) -> Function:
    return Function(
        definition.name,
        definition.description,
        NO_PARAMETERS if definition.parameters is None else definition.parameters,
        bool(definition.strict),
    )


def _check(use: ToolUse) -> None:
    """InvalidRequest for too many tools, too large ones, and names that are bad or repeated."""
    if len(use.functions) > MAX_TOOLS:
        raise InvalidRequest(
            f"{use.param} has {len(use.functions)} items; at most {MAX_TOOLS} are accepted",
            param=use.param,
        )
    seen = set[str]()
    for place, function in enumerate(use.functions):
        where = f"{use.param}[{place}].{use.place}name"
        if not NAME.fullmatch(function.name):
            raise InvalidRequest(
                f"{where} is {shortened(function.name)!r}; accepted are 1 to 64 letters, digits, "
                "underscores and hyphens",
                param=where,
            )
        if function.name in seen:
            raise InvalidRequest(
                f"{where} is {function.name!r}, as is an earlier one; names must differ",
                param=where,
            )
        seen.add(function.name)
    if use.functions and (size := use.size) > MAX_TOOL_BYTES:
        raise InvalidRequest(
            f"{use.param} has {size} bytes; at most {MAX_TOOL_BYTES} are accepted", param=use.param
        )


def _tool_choice(value: str | dict[str, Any] | None, offered: Sequence[str]) -> Choice:
    param = "tool_choice"
    if isinstance(value, dict):
        if value.get("type") == "allowed_tools":
            chosen = _converted(value, AllowedToolsChoice, param).allowed_tools
            names = tuple(tool.function.name for tool in chosen.tools)
            if not names:
                raise InvalidRequest(
                    f"{param}.allowed_tools.tools is empty; at least one is needed", param=param
                )
            return Choice(chosen.mode, _known(names, offered, param))
        if value.get("type") != "function":
            raise UnsupportedParameter(
                f"{param}.type {shortened(repr(value.get('type')))} is not supported by this "
                "gateway; accepted are 'function' and 'allowed_tools'",
                param=param,
            )
        name = _converted(value, NamedTool, param).function.name
        return Choice("required", _known((name,), offered, param), single=True)
    if value is None:
        return Choice("auto")
    if value not in MODES:
        raise InvalidRequest(
            f"{param} is {shortened(value)!r}; accepted are {', '.join(MODES)} and an object that "
            "names a function",
            param=param,
        )
    return Choice(value)


def _function_choice(value: str | dict[str, Any] | None, offered: Sequence[str]) -> Choice:
    param = "function_call"
    if isinstance(value, dict):
        name = _converted(value, FunctionName, param).name
        return Choice("required", _known((name,), offered, param), single=True)
    if value not in {None, "none", "auto"}:
        raise InvalidRequest(
            f"{param} is {shortened(str(value))!r}; accepted are none, auto and an object that "
            "names a function",
            param=param,
        )
    return Choice(value or "auto")


def _known(names: Names, offered: Sequence[str], param: str) -> Names:
    unknown = [name for name in names if name not in offered]
    if unknown:
        raise InvalidRequest(
            f"{param} names {shortened(unknown[0])!r}, which the request does not offer",
            param=param,
        )
    return names


def _converted(value: dict[str, Any], kind: Any, param: str) -> Any:
    try:
        return convert_strictly(value, kind)
    except InvalidRequest as error:
        raise InvalidRequest(f"{param}.{error.message}", param=param) from error
