"""The chat template's environment renders as transformers' does, and fails with a reason."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from engine.checkpoints.catalogue import DEMO_FOLDER
from gateway.errors import (
    ContextLengthExceeded,
    InstructionRefused,
    InvalidRequest,
    StartupFailure,
)
from gateway.generation.text.prompt_options import PromptOptions
from gateway.generation.text.tokenizer import ChatTokenizer

SPECIAL = {
    "bos_token": "<|user|>",
    "eos_token": {"__type": "AddedToken", "content": "<|end|>"},
    "pad_token": None,
}
CHATS = {
    "short": [("user", "hello")],
    "whole": [
        ("system", " Answer <b>briefly</b> & well, “naïve” 日本\n"),
        ("user", "What's 2 < 3?\n\n  indented"),
        ("assistant", "<think>two</think>Yes."),
        ("user", ""),
    ],
}
SHAPES = {
    "loop": "{% for m in messages %}[{{ m.role }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}",
    "special tokens": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token }}"
    "{{ unk_token is defined }}{{ pad_token is defined }}{{ image_token is defined }}",
    "date": '{%- set day = strftime_now("%Y-%m-%d") -%}\nIt is {{ day }}{{ strftime_now("%z") }}.',
    "json": "{% for m in messages %}{{ m | tojson }}{% endfor %}",
    "json with arguments": "{{ messages | tojson(indent=2) }}{{ messages[0] | tojson(true) }}"
    "{{ messages | tojson(separators=(',', ':'), sort_keys=true, ensure_ascii=True) }}",
    "blocks and lines": "{% for m in messages %}\n    {% if m.role == 'user' %}\n"
    "    Q: {{ m.content | trim }}\n    {%- else %}\n  {{ loop.index0 }} {{ m.role }}\n"
    "    {% endif %}\n{% endfor %}\n",
    "break and continue": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}"
    "{% endif %}{{ m.content }}{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}",
    "generation": "{% set x = 1 %}{% for m in messages %}{% generation %}{% set x = 2 %}{{ x }}"
    "{{ m.content }}{% endgeneration %}{{ x }}{% endfor %}",
    "generation, trimmed": "a {%- generation -%} b {{ loop is defined }} {%- endgeneration -%} c",
    "namespace": "{% set ns = namespace(last='', seen=0) %}{% for m in messages %}"
    "{% set ns.last = m.content %}{% set ns.seen = ns.seen + 1 %}{% endfor %}"
    "{{ ns.last }}|{{ ns.seen }}",
    "macro": "{% macro turn(role, text='-') %}<{{ role }}>{{ text }}{% endmacro %}"
    "{% for m in messages %}{{ turn(m.role, m.content) }}{% endfor %}{{ turn('x') }}",
    "absent tools": "{{ tools is none }}{{ tools is defined }}{{ documents is none }}"
    "{% if tools is not none %}{{ raise_exception('tools') }}{% endif %}{{ custom is defined }}",
    "text functions": "{% for m in messages %}{{ m.content.split('</think>')[-1].lstrip() }}"
    "{{ m.content.startswith('<') }}{{ m.get('name', 'none') }}{{ m.content | upper }}"
    "{% endfor %}{{ messages[1:] | length }}{{ messages | map(attribute='role') | join(',') }}",
    "dict": "{% set d = dict(a=1, b=messages[0].role) %}{% for k, v in d.items() %}"
    "{{ k }}={{ v }};{% endfor %}{{ messages[0] is mapping }}{{ messages is sequence }}",
}


@pytest.fixture
def model(tmp_path: Path) -> Any:
    """Makes a tokenizer of a folder with the given chat template and settings."""

    def make(template: str | None = None, **settings: Any) -> ChatTokenizer:
        shutil.copy(DEMO_FOLDER / "tokenizer.json", tmp_path)
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**SPECIAL, **settings}))
        if template is not None:
            (tmp_path / "chat_template.jinja").write_text(template)
        return ChatTokenizer(tmp_path)

    return make


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in pairs]


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_template_renders_as_transformers_renders_it(
    model: Any, tmp_path: Path, shape: str, chat: str
) -> None:
    ours = model(SHAPES[shape])
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    messages = turns(*CHATS[chat])
    expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert ours._template.render(messages) == expected


def test_default_of_several_named_templates_is_used(model: Any, tmp_path: Path) -> None:
    named = [
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": "{{ messages[0].content }}!"},
    ]
    ours = model(chat_template=named)
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    messages = turns(("user", "hello"))
    expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert ours._template.render(messages) == expected == "hello!"


def test_named_templates_without_a_default_are_named(model: Any) -> None:
    with pytest.raises(StartupFailure, match=r"tokenizer_config\.json.*\['rag', 'tool_use'\]"):
        model(chat_template=[{"name": name, "template": "x"} for name in ("tool_use", "rag")])


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}\n{{ m.content }", "line 2: "),
        ("{{ today_in('Velan') }}", "'today_in' is undefined"),
        ("{{ raise_exception('only tools') }}", "only tools"),
        ("{{ messages[0].content + 1 }}", "str"),
        (
            "{% for i in range(99999) %}{% for j in range(999) %}spam{% endfor %}{% endfor %}",
            "more",
        ),
        ("{% set x %}{% for i in range(99999) %}{{ 'spam' * 99 }}{% endfor %}{% endset %}", "more"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.clear() }}", "unsafe"),
    ],
)
def test_template_that_fails_is_refused_at_start_with_its_own_error(
    model: Any, template: str, reason: str
) -> None:
    with pytest.raises(StartupFailure) as caught:
        model(template)
    assert "chat_template.jinja" in str(caught.value)
    assert reason in str(caught.value)


def test_template_that_needs_a_system_message_is_accepted(model: Any) -> None:
    needs = "{% if messages[0].role != 'system' %}{{ raise_exception('no system') }}{% endif %}x"
    with pytest.raises(InvalidRequest, match="no system") as caught:
        model(needs).encode_chat(turns(("user", "king")))
    assert caught.value.param == "messages"


NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}"
    "{% endif %}{% if m.content == 'bad' %}{{ raise_exception('bad') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)


def test_refused_instruction_names_the_app_and_not_the_messages(model: Any) -> None:
    tokenizer = model(NO_SYSTEM)
    with pytest.raises(InstructionRefused, match=r"registered for this app.*no system role") as app:
        tokenizer.encode_chat(turns(("system", "Sing."), ("user", "king")), registered=True)
    assert (app.value.code, app.value.param) == ("app_instruction_refused", None)
    for messages, registered in (
        ([("system", "Sing."), ("user", "king")], False),
        ([("system", "Sing."), ("user", "bad")], True),
    ):
        with pytest.raises(InvalidRequest) as client:
            tokenizer.encode_chat(turns(*messages), registered=registered)
        assert (client.value.code, client.value.param) == ("invalid_value", "messages")


def test_instruction_is_proven_when_it_is_registered(model: Any) -> None:
    model("{{ messages[0].content }}").check_instruction("Sing.")
    with pytest.raises(InvalidRequest, match="no system role") as caught:
        model(NO_SYSTEM).check_instruction("Sing.")
    assert caught.value.param == "instruction"


@pytest.mark.parametrize("text", ["word " * 20, "<|end|>" * 20])
def test_rendered_text_is_bounded(model: Any, text: str) -> None:
    tokenizer = model("{% for i in range(10) %}{{ messages[0].content }}{% endfor %}")
    assert tokenizer.encode_chat(turns(("user", text)), max_characters=10 * len(text))
    with pytest.raises(ContextLengthExceeded, match="characters"):
        tokenizer.encode_chat(turns(("user", text)), max_characters=10 * len(text) - 1)


THINKING = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
    "{% if enable_thinking is defined and enable_thinking is false %}<no think>{% endif %}"
    "{{ depth | tojson if depth is defined }}"
)


def text_of(tokenizer: ChatTokenizer, ids: list[int]) -> str:
    decoder = tokenizer.decoder()
    return decoder.feed(ids) + decoder.finish()


def test_a_request_sets_variables_of_the_template(model: Any) -> None:
    tokenizer = model(THINKING)
    options = PromptOptions(variables={"enable_thinking": False, "depth": {"a": [1]}})
    plain = tokenizer.encode_chat(turns(("user", "king")))
    varied = tokenizer.encode_chat(turns(("user", "king")), options)
    assert text_of(tokenizer, varied) == text_of(tokenizer, plain) + '<no think>{"a": [1]}'


@pytest.mark.parametrize("name", ["messages", "tools", "bos_token", "add_generation_prompt"])
def test_what_the_request_does_not_own_cannot_be_set(model: Any, name: str) -> None:
    with pytest.raises(InvalidRequest, match=name) as caught:
        model(THINKING).encode_chat(turns(("user", "x")), PromptOptions(variables={name: "x"}))
    assert caught.value.param == "chat_template_kwargs"


@pytest.mark.parametrize("content", ["The brave", "The brave ", "king", "<assistant>", ""])
def test_the_answer_continues_the_final_message_as_it_is(model: Any, content: str) -> None:
    tokenizer = model(THINKING)
    messages = turns(("user", "king"), ("assistant", content))
    continued = tokenizer.encode_chat(messages, PromptOptions(continues_final=True))
    begun = tokenizer.encode_chat(turns(("user", "king")))
    assert text_of(tokenizer, continued) == text_of(tokenizer, begun) + content


def test_without_an_opening_the_template_ends_with_the_messages(model: Any) -> None:
    tokenizer = model(THINKING)
    closed = tokenizer.encode_chat(turns(("user", "king")), PromptOptions(opens_answer=False))
    opened = tokenizer.encode_chat(turns(("user", "king")))
    assert text_of(tokenizer, closed) + "<assistant>" == text_of(tokenizer, opened)


def test_a_template_without_the_final_message_cannot_continue_it(model: Any) -> None:
    with pytest.raises(InvalidRequest, match="does not show the final message") as caught:
        model("{{ messages[0].content }}").encode_chat(
            turns(("user", "king"), ("assistant", "The")), PromptOptions(continues_final=True)
        )
    assert caught.value.param == "continue_final_message"
