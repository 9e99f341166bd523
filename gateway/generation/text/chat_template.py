"""A model's chat template, in an environment that renders as transformers' `apply_chat_template`.

transformers itself stays out of this process: its import takes 1.5 s and loads NumPy and Pillow.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.errors import StartupFailure

MAX_CHARACTERS: Final = 16 << 20  # of a rendered conversation, where no smaller limit is given
RESERVED: Final = frozenset(
    {"add_generation_prompt", "continue_final_message", "documents", "messages", "tools"}
)
# Conversations that a template is tried on.
SYSTEM: Final = {"role": "system", "content": "Answer."}
USER: Final = {"role": "user", "content": "hello"}
TOOL: Final = "a_function_to_try_the_template_with"
NO_PARAMETERS: Final = {"parameters": {"type": "object", "properties": {}}}
NO_VARIABLES: Final[Mapping[str, Any]] = {}
# What the expressions of a template raise on data that they do not expect.
_FAILURES: Final = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class RefusedByTemplate(Exception):
    """A template refuses a conversation or fails on it; the message is the template's own."""


class TooLong(Exception):
    """A rendered conversation has more characters than allowed."""


class GenerationBlock(Extension):
    """`{% generation %}`: marks what training counts as the answer, and renders its content."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """The block's content, in a scope of its own."""
        line = next(parser.stream).lineno
        content = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(content).set_lineno(line)


def _joined(parts: Iterable[str]) -> str:
    """The text of a macro or of a block that is set. TooLong before it is built."""
    pieces = list(parts)
    if sum(map(len, pieces)) > MAX_CHARACTERS:
        raise TooLong
    return "".join(pieces)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Jinja with the functions that chat templates expect, without access to the process."""

    concat = staticmethod(_joined)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
        )
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = _local_time


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as Python writes it: Jinja's own filter escapes characters that HTML reserves."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _local_time(form: str) -> str:
    return datetime.now().astimezone().replace(tzinfo=None).strftime(form)


def _compiled(source: str, origin: str) -> Template:
    try:
        return ChatEnvironment().from_string(source)
    except TemplateSyntaxError as error:
        raise StartupFailure(
            f"LMAAS_MODEL: the chat template in {origin}, line {error.lineno}: {error}"
        ) from error


class ChatTemplate:
    """One compiled template, proven on a conversation. Safe to share between threads."""

    def __init__(
        self, source: str, names: Mapping[str, str], origin: str, tool_source: str | None = None
    ) -> None:
        """`names` are the special tokens; StartupFailure names `origin` and the template's error.

        `tool_source` is the template of conversations with tools, if they have one of their own.
        A template that needs a system message is proven with one.
        """
        self.source = source
        self.tool_source = source if tool_source is None else tool_source
        self._names = dict(names)
        self._template = _compiled(source, origin)
        self._tool_template = _compiled(self.tool_source, origin)
        try:
            self.render([USER])
        except (RefusedByTemplate, TooLong) as first:
            try:
                self.render([SYSTEM, USER])
            except (RefusedByTemplate, TooLong):
                reason = str(first) or f"it renders more than {MAX_CHARACTERS} characters"
                raise StartupFailure(
                    f"LMAAS_MODEL: the chat template in {origin} fails on a user message: {reason}"
                ) from first

    @property
    def reserved(self) -> frozenset[str]:
        """The names of variables that a request cannot set."""
        return RESERVED | self._names.keys()

    @cached_property
    def takes_system(self) -> bool:
        """Whether a conversation may begin with a system message."""
        return self._renders([SYSTEM, USER]) is not None

    @cached_property
    def shows_tools(self) -> bool:
        """Whether the model is shown the tools that a request offers."""
        tool = {"type": "function", "function": {"name": TOOL, "description": "", **NO_PARAMETERS}}
        rendered = self._renders([USER], [tool]) or self._renders([SYSTEM, USER], [tool])
        return rendered is not None and TOOL in rendered

    def _renders(
        self, messages: Sequence[Mapping[str, str]], tools: Sequence[Mapping[str, Any]] = ()
    ) -> str | None:
        try:
            return self.render(messages, tools=tools)
        except (RefusedByTemplate, TooLong):
            return None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_characters: int = MAX_CHARACTERS,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] = NO_VARIABLES,
        opens_answer: bool = True,
    ) -> str:
        """The conversation as text; if it `opens_answer`, up to where the answer begins.

        RefusedByTemplate with the template's error; TooLong as soon as it exceeds the limit.
        """
        pieces, size = [], 0
        given = {
            **variables,
            **self._names,
            "messages": messages,
            "tools": tools or None,
            "documents": None,
            "add_generation_prompt": opens_answer,
        }
        try:
            template = self._tool_template if tools else self._template
            for piece in template.generate(given):
                size += len(piece)
                if size > max_characters:
                    raise TooLong
                pieces.append(piece)
        except _FAILURES as error:
            raise RefusedByTemplate(str(error) or type(error).__name__) from error
        return "".join(pieces)


def read_template(folder: Path, settings: Mapping[str, Any]) -> ChatTemplate:
    """The template of a model folder with these settings (its `tokenizer_config.json`).

    `chat_template.jinja` goes before the settings; of several named templates the one named
    `default` is used, with tools the one named `tool_use`. StartupFailure if there is none.
    """
    separate = folder / "chat_template.jinja"
    names = special_tokens(settings)
    if separate.is_file():
        return ChatTemplate(separate.read_text(encoding="utf-8"), names, str(separate))
    source, origin = settings.get("chat_template"), str(folder / "tokenizer_config.json")
    tool_source = None
    if isinstance(source, list):
        named = {
            entry["name"]: entry["template"]
            for entry in source
            if isinstance(entry, dict) and {"name", "template"} <= entry.keys()
        }
        source, tool_source = named.get("default"), named.get("tool_use")
        if source is None:
            raise StartupFailure(
                f"LMAAS_MODEL: {origin} has the chat templates {sorted(named)}; one of them must "
                "be named 'default'"
            )
        origin += " (named 'default')"
    if not isinstance(source, str):
        raise StartupFailure(f"LMAAS_MODEL: {folder} has no chat template")
    return ChatTemplate(source, names, origin, tool_source)


def special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens by name, such as `bos_token`: those that have a text."""
    extra = settings.get("extra_special_tokens")
    entries = {**settings, **extra} if isinstance(extra, dict) else settings
    texts = {
        name: entry.get("content") if isinstance(entry, dict) else entry
        for name, entry in entries.items()
        if name.endswith("_token")
    }
    return {name: text for name, text in texts.items() if isinstance(text, str) and text}
