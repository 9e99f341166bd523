"""Grammars of answers that call tools, in each form of calls."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from engine.protocol import Grammar
from gateway.errors import InvalidRequest
from gateway.generation.grammar.schemas import enforced_schema
from gateway.generation.tools.definition import Function, ToolUse
from gateway.generation.tools.forms import MARKS, FormName

MAX_CALLS: Final = 16  # of an answer that has to have one: a weak model may find no end
ANY_ARGUMENTS: Final[dict[str, Any]] = {"type": "object"}
_MARK: Final = re.compile("|".join(map(re.escape, MARKS)))


class _Form(Struct, frozen=True):
    """How calls are written, after the `mark` that no other text has: `opening`, calls with a
    `separator` between two, `closing`. A call is `before`, name, `between`, arguments and `after`.

    Where there is no mark, text that begins with `{` is a call.
    """

    before: str
    between: str
    after: str
    separator: str
    mark: str = ""
    opening: str = ""
    closing: str = ""


_TAGGED: Final = _Form(
    '\n{"name": "', '", "arguments": ', "}\n</tool_call>", "\n<tool_call>", "<tool_call>"
)
FORMS: Final[Mapping[FormName, _Form]] = {
    "hermes": _TAGGED,
    "json": _TAGGED,
    "llama3": _Form('{"name": "', '", "parameters": ', "}", "; "),
    "mistral": _Form('{"name": "', '", "arguments": ', "}", ", ", "[TOOL_CALLS]", "[", "]"),
}


def call_grammar(
    form: FormName,
    use: ToolUse,
    content: Grammar | None,
    mark_ids: Mapping[str, int],
    *,
    param: str,
) -> Grammar | None:
    """The grammar of an answer that may or must call functions; None: any text.

    Arguments follow the function's schema if a call is required or the function is strict. An
    answer without calls follows `content`, the grammar that the API parameter `param` sets.
    `mark_ids` are the marks that are tokens of their own. InvalidRequest if `content` is no JSON
    schema, or a function's schema is nested too deep.
    """
    if not use.required and content is None and not any(each.strict for each in use.functions):
        return None
    rules = [*_calls(FORMS[form], use, mark_ids)]
    if use.required:
        rules.append("start: calls")
    elif content is not None:
        if content.kind != "json_schema":
            raise InvalidRequest(
                f"{param} is only accepted without tools, or with tool_choice 'none' or 'required'",
                param=param,
            )
        rules += ["start: content | calls", f"content: %json {content.source}"]
    else:
        rules += _text(FORMS[form], mark_ids)
    return Grammar("lark", "\n".join(reversed(rules)) + "\n")


def _text(form: _Form, mark_ids: Mapping[str, int]) -> list[str]:
    """Rules of an answer of any text, in which calls may follow."""
    if not form.mark:
        return [r"TEXT: /[^{\s](?s:.*)/", "start: TEXT | calls"]
    mark = re.escape(form.mark).replace("/", r"\/")
    text = f"TEXT: /(?s:.+)/ & ~/(?s:.*){mark}(?s:.*)/"
    if form.mark in mark_ids:
        return [text, "start: TEXT calls? | calls"]
    return [text, f"before[lazy]: /(?s:.*){mark}/", "start: TEXT | before listed"]


def _calls(form: _Form, use: ToolUse, mark_ids: Mapping[str, int]) -> Iterator[str]:
    """The rules of one call or several, without and with the mark before them."""
    functions = use.callable_functions
    for number, function in enumerate(functions):
        before = _spelled(f"{form.before}{function.name}{form.between}", mark_ids)
        yield f"call{number}: {before} arguments{number} {_spelled(form.after, mark_ids)}"
        schema = msgspec.json.encode(_arguments(function, use)).decode()
        yield f"arguments{number}: %json {schema}"
    yield "call: " + " | ".join(f"call{number}" for number in range(len(functions)))
    further = f"({_spelled(form.separator, mark_ids)} call){{0,{MAX_CALLS - 1}}}"
    parts = [
        _spelled(form.opening, mark_ids),
        "call",
        further if use.parallel else "",
        _spelled(form.closing, mark_ids),
    ]
    yield f"listed: {' '.join(filter(None, parts))}"
    yield f"calls: {_spelled(form.mark, mark_ids)} listed"


def argument_grammars(use: ToolUse) -> Iterator[tuple[str, Grammar]]:
    """The grammar of the arguments of each function whose schema calls follow.

    With the API parameter that has the schema.
    """
    for function in use.callable_functions:
        if _enforced(function, use):
            source = msgspec.json.encode(_arguments(function, use)).decode()
            yield use.parameters_of(function), Grammar("json_schema", source)


def _arguments(function: Function, use: ToolUse) -> dict[str, Any]:
    """The schema that the arguments of a call follow."""
    schema = function.parameters if _enforced(function, use) else ANY_ARGUMENTS
    return enforced_schema(schema, param=use.parameters_of(function))


def _enforced(function: Function, use: ToolUse) -> bool:
    return use.required or function.strict


def _spelled(text: str, mark_ids: Mapping[str, int]) -> str:
    """A text in Lark's notation: marks that are tokens by their number, the rest as strings."""
    parts = []
    end = 0
    for found in _MARK.finditer(text):
        if found[0] in mark_ids:
            parts += [_literal(text[end : found.start()]), f"<[{mark_ids[found[0]]}]>"]
            end = found.end()
    return " ".join(filter(None, [*parts, _literal(text[end:])]))


def _literal(text: str) -> str:
    return msgspec.json.encode(text).decode() if text else ""
