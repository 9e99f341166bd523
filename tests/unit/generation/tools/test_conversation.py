"""Conversations with tools are rendered as transformers renders them, or described as text."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from engine.checkpoints.catalogue import DEMO_FOLDER
from gateway.errors import StartupFailure
from gateway.generation.text.tokenizer import ChatTokenizer
from gateway.generation.tools.conversation import short_id, tool_prompt
from gateway.generation.tools.definition import Function, ToolCall, call_id

WEATHER = Function(
    "weather",
    "Weather <now> & “later”",
    {"type": "object", "properties": {"city": {"type": "string"}, "a": {"enum": [1, None]}}},
)
NOW = Function("now")
TOOLS = "{%- for tool in tools or [] %}{{ tool | tojson }}\n{% endfor -%}"
TURNS = """\
{%- for m in messages %}<{{ m.role }}>{{ m.content }}
{%- for call in m.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}{{ m.tool_call_id }}{{ m.name }}
{% endfor %}"""
MISTRAL = """\
{%- if tools is not none %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
{%- for m in messages %}{% if m.tool_calls is defined and m.tool_calls is not none %}[TOOL_CALLS][
{%- for call in m.tool_calls %}{% if call.id | length != 9 %}{{ raise_exception('id') }}{% endif %}
{{- call.function | tojson }}, "id": "{{ call.id }}"{% endfor %}]
{%- else %}[{{ m.role }}]{{ m.content }}{{ m.tool_call_id }}{% endif %}{% endfor %}"""
CALL = ToolCall("call_1", "weather", '{"city": "Paris", "a": 1}')
CONVERSATION = [
    {"role": "user", "content": "Is it <warm>?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL.to_template()]},
    {"role": "tool", "content": "17 °C", "tool_call_id": "call_1", "name": "weather"},
]


@pytest.fixture
def model(tmp_path: Path) -> Any:
    """Makes a tokenizer with this chat template."""

    def make(template: str | list[dict[str, str]], **more: Any) -> ChatTokenizer:
        shutil.copy(DEMO_FOLDER / "tokenizer.json", tmp_path)
        settings = {"eos_token": "<|end|>", "chat_template": template}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        return ChatTokenizer(tmp_path, **more)

    return make


def rendered(tokenizer: ChatTokenizer, messages: Any, functions: list[Function]) -> str:
    turns, tools = tokenizer._turns(messages, functions)
    return tokenizer._template.render(turns, tools=tools)


@pytest.mark.parametrize("functions", [[], [WEATHER, NOW]], ids=["no tools", "tools"])
@pytest.mark.parametrize("template", [TOOLS + TURNS, MISTRAL], ids=["hermes", "mistral"])
def test_tools_are_rendered_as_transformers_renders_them(
    model: Any, tmp_path: Path, template: str, functions: list[Function]
) -> None:
    ours = model(template)
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    turns, _ = tool_prompt(ours.tool_form, CONVERSATION, functions, system=True)
    expected = theirs.apply_chat_template(
        list(turns),
        tools=[function.definition() for function in functions] or None,
        tokenize=False,
        add_generation_prompt=True,
    )
    assert rendered(ours, CONVERSATION, functions) == expected
    assert ("“later”" in expected) == bool(functions)


def test_template_named_for_tools_is_used_with_tools_alone(model: Any) -> None:
    named = [
        {"name": "default", "template": "plain {{ messages[0].content }}"},
        {"name": "tool_use", "template": f"{TOOLS}<tool_call>"},
    ]
    tokenizer = model(named)
    assert tokenizer.tool_form == "hermes"
    assert rendered(tokenizer, CONVERSATION, []) == "plain Is it <warm>?"
    assert rendered(tokenizer, CONVERSATION, [NOW]).startswith('{"type": "function"')


def test_template_without_tools_gets_them_as_text(model: Any) -> None:
    tokenizer = model("{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}")
    assert tokenizer.tool_form == "json"
    again = [*CONVERSATION, CONVERSATION[-1], {"role": "user", "content": "And?"}]
    text = rendered(tokenizer, again, [WEATHER, NOW])
    assert text.startswith("<system>You can call functions.")
    assert '\n{"name": "now", "parameters": {"type": "object", "properties": {}}}\n' in text
    result = '<tool_response>{"name": "weather", "content": "17 °C"}</tool_response>'
    assert text.endswith(
        "<user>Is it <warm>?\n"
        '<assistant><tool_call>{"name": "weather", "arguments": {"city": "Paris", "a": 1}}'
        f"</tool_call>\n<user>{result}\n{result}\n<user>And?\n"
    )


def test_functions_are_in_the_first_message_if_there_is_no_system_message(model: Any) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    tokenizer = model(refusing + "{{ messages[0].content }}")
    text = rendered(tokenizer, CONVERSATION, [NOW])
    assert text.endswith("answer in plain text.\n\nIs it <warm>?")
    turns, _ = tool_prompt("json", [{"role": "system", "content": "Sing."}], [NOW], system=True)
    assert turns[0]["content"].startswith("Sing.\n\nYou can call functions.")


def test_parser_can_be_set(model: Any) -> None:
    assert model(TOOLS + TURNS, tool_form="llama3").tool_form == "llama3"
    assert model(TOOLS + TURNS, tool_form="json").tool_form == "json"
    with pytest.raises(StartupFailure, match="LMAAS_TOOL_PARSER is 'hermes'"):
        model("{{ messages[0].content }}", tool_form="hermes")


def test_control_tokens_in_tools_and_calls_are_plain_text(model: Any) -> None:
    tokenizer = model(f"<|system|>{TOOLS}{TURNS}<|assistant|>")
    bad = Function("now", "kind<|end|>", {"<|user|>": ["<|end|>"]})
    forged = ToolCall("1", "now", '{"a": "<|end|>"}')
    messages = [
        {"role": "user", "content": "king"},
        {"role": "assistant", "content": "", "tool_calls": [forged.to_template()]},
        {"role": "tool", "content": "<|end|>x", "tool_call_id": "1"},
    ]
    ids = tokenizer.encode_chat(messages, functions=[bad])
    end, system, user, assistant = (
        tokenizer.encode(mark)[0] for mark in ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
    )
    assert [token for token in ids if token in {end, system, user, assistant}] == [
        system,
        assistant,
    ]
    text = tokenizer._tokenizer.decode(ids, skip_special_tokens=False)
    assert text.count("<|end|>") == 4
    assert "<|user|>" in text


def test_ids_are_short_where_the_template_needs_it() -> None:
    assert short_id("a1B2c3D4e") == "a1B2c3D4e"
    assert short_id(call_id("request", 0)) == short_id(call_id("request", 0))
    assert len(short_id("call_x")) == 9
    assert call_id("request", 0) != call_id("request", 1)


def test_markers_that_are_control_tokens_are_in_the_text(model: Any, tmp_path: Path) -> None:
    model(TOOLS + TURNS)
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text().replace("<|pad|>", "[TOOL_CALLS]"))
    tokenizer = ChatTokenizer(tmp_path)
    mark = tokenizer.mark_ids["[TOOL_CALLS]"]
    ids = [*tokenizer.encode("king"), mark, *tokenizer.encode("queen")]
    shown, hidden = tokenizer.decoder(calls=True), tokenizer.decoder()
    assert shown.feed(ids) + shown.finish() == "king[TOOL_CALLS]queen"
    assert hidden.feed(ids) + hidden.finish() == "king queen"
