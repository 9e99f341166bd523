"""Each form of tool calls, whole and cut anywhere; what is no call stays content."""

import json
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Struct

from gateway.generation.tools.forms import READERS, FormName, form_of_template

NAMES = ("weather", "add", "now")
PARIS = '{"city": "Paris"}'
CALL = f'{{"name": "weather", "arguments": {PARIS}}}'
LLAMA = f'{{"name": "weather", "parameters": {PARIS}}}'
ADD = '{"name": "add", "arguments": {"a": [1, {"b": "}]\\"</tool_call>"}]}}'


class Read(Struct):
    content: str
    calls: list[tuple[str | None, str]]


def read(form: FormName, pieces: list[str], most: int | None = None) -> Read:
    """The whole answer, from what its pieces give."""
    reader = READERS[form](NAMES, most)
    content, calls = "", dict[int, tuple[str | None, str]]()
    for delta in [*map(reader.feed, pieces), reader.finish()]:
        content += delta.content
        for call in delta.calls:
            assert (call.name is not None) == (call.index not in calls)
            name, arguments = calls.get(call.index, (call.name, ""))
            calls[call.index] = name, arguments + call.arguments
    assert list(calls) == list(range(len(calls)))
    return Read(content, list(calls.values()))


SHAPES: list[tuple[FormName, str, str, list[tuple[str, str]]]] = [
    ("hermes", f"<tool_call>\n{CALL}\n</tool_call>", "", [("weather", PARIS)]),
    ("hermes", f"<tool_call>{CALL}</tool_call>", "", [("weather", PARIS)]),
    (
        "hermes",
        f"Let me see.\n\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{ADD}\n</tool_call>\n",
        "Let me see.",
        [("weather", PARIS), ("add", '{"a": [1, {"b": "}]\\"</tool_call>"}]}')],
    ),
    ("hermes", f"<tool_call>[{CALL}, {CALL}]</tool_call>", "", [("weather", PARIS)] * 2),
    ("hermes", f"<tool_call>\n{CALL}\n", "", [("weather", PARIS)]),
    ("hermes", f"<tool_call>{CALL}</tool_call> That is all.", "That is all.", [("weather", PARIS)]),
    ("hermes", f"<tool_call>{CALL}}}</tool_call>", "", [("weather", PARIS)]),
    ("hermes", f"<tool_call>{CALL[:-1]}</tool_call>", "", [("weather", PARIS)]),
    ("hermes", f"<tool_call>{CALL[:-2]}</tool_call>", "", [("weather", '{"city": "Paris"')]),
    ("hermes", f"<tool_call>{CALL[:-6]}", "", [("weather", '{"city": "Pa')]),
    (
        "hermes",
        f'<tool_call>{{"arguments": {PARIS}, "name": "weather"}}</tool_call>',
        "",
        [("weather", PARIS)],
    ),
    (
        "hermes",
        '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>',
        "",
        [("weather", PARIS)],
    ),
    ("hermes", '<tool_call>{"name": "now"}</tool_call>', "", [("now", "{}")]),
    ("hermes", '<tool_call>{"name": "now", "arguments": null}</tool_call>', "", [("now", "{}")]),
    (
        "hermes",
        '<tool_call>{"id": "1", "type": "function", "name": "other", "arguments": {}}</tool_call>',
        "",
        [("other", "{}")],
    ),
    ("hermes", CALL, CALL, []),
    ("llama3", LLAMA, "", [("weather", PARIS)]),
    ("llama3", f"\n{LLAMA}; {LLAMA}", "", [("weather", PARIS)] * 2),
    ("llama3", f"<|python_tag|>{LLAMA}", "", [("weather", PARIS)]),
    ("llama3", f"Wait. <|python_tag|>{LLAMA};{LLAMA}", "Wait.", [("weather", PARIS)] * 2),
    (
        "llama3",
        f'{{"type": "function", "name": "weather", "parameters": {PARIS}}}',
        "",
        [("weather", PARIS)],
    ),
    ("llama3", f"I call {LLAMA}", f"I call {LLAMA}", []),
    ("llama3", '{"name": "Ada", "parameters": {}}', '{"name": "Ada", "parameters": {}}', []),
    ("llama3", '{"city": "Paris"}', '{"city": "Paris"}', []),
    (
        "llama3",
        '<|python_tag|>search.call(query="x")',
        '<|python_tag|>search.call(query="x")',
        [],
    ),
    ("mistral", f"[TOOL_CALLS][{CALL}]", "", [("weather", PARIS)]),
    ("mistral", f"[TOOL_CALLS] [{CALL}, {CALL}]", "", [("weather", PARIS)] * 2),
    (
        "mistral",
        f"Hm. [TOOL_CALLS]weather[ARGS]{PARIS}[TOOL_CALLS]now[ARGS]{{}}",
        "Hm.",
        [("weather", PARIS), ("now", "{}")],
    ),
    (
        "mistral",
        f"[TOOL_CALLS]weather[CALL_ID]a1B2c3D4e[ARGS]{PARIS}",
        "",
        [("weather", PARIS)],
    ),
    ("mistral", f"[TOOL_CALLS]weather{PARIS}", "", [("weather", PARIS)]),
    ("mistral", "[TOOL_CALLS]weather[ARGS]no object", "[TOOL_CALLS]weather[ARGS]no object", []),
    ("json", f"<tool_call>{CALL}</tool_call>", "", [("weather", PARIS)]),
    ("json", f"{CALL}\n{CALL}", "", [("weather", PARIS)] * 2),
    ("json", f"[{CALL}, {LLAMA}]", "", [("weather", PARIS)] * 2),
    ("json", f" {CALL[:-1]}, {CALL}", "", [("weather", PARIS)] * 2),
    ("json", '[1, {"name": 2}]', '[1, {"name": 2}]', []),
]


@pytest.mark.parametrize(("form", "text", "content", "calls"), SHAPES)
def test_answer_is_read_the_same_wherever_it_is_cut(
    form: FormName, text: str, content: str, calls: list[tuple[str, str]]
) -> None:
    expected = Read(content, calls)
    assert read(form, [text]) == expected
    assert read(form, list(text)) == expected
    for cut in range(1, len(text)):
        assert read(form, [text[:cut], text[cut:]]) == expected


BROKEN = [
    "<tool_call>",
    "<tool_call></tool_call>",
    "<tool_call>weather(Paris)</tool_call>",
    '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
    '<tool_call>{"name": "weather", "arguments": [1]}</tool_call>',
    '<tool_call>{"name": "weather", "arguments": "Paris"}</tool_call>',
    '<tool_call>{"name": "weather", "arguments": 7}</tool_call>',
    '<tool_call>{"name": "weather", "city": "Paris"}</tool_call>',
    '<tool_call>{"name": "weath',
    '<tool_call>{"name" "weather"}</tool_call>',
    '<tool_call>{"arguments": {"city": "Paris"}}</tool_call>',
    '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>',
    "Is 1 <tool_call 2? \n\n <tool",
]


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_no_call_is_content(text: str) -> None:
    assert read("hermes", [text]) == Read(text, [])
    assert read("hermes", list(text)) == Read(text, [])


FRAGMENTS = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
        *(
            CALL,
            LLAMA,
            ADD,
            PARIS,
            '{"name": "weather", ',
            '"arguments": ',
            "weather",
            "<tool",
            '"',
        ),
        *("{", "}", "[", "]", ",", ";", ":", "\\", " ", "\n" * 70, "null", "é", "text"),
    ]
)


@example(fragments=[" " * 100, "<tool_call>", CALL, "</tool_call>"], cuts=[3, 80], most=None)
@given(
    fragments=st.lists(FRAGMENTS, max_size=12),
    cuts=st.lists(st.integers(0, 400), max_size=6),
    most=st.sampled_from([None, 1]),
)
@pytest.mark.parametrize("form", READERS)
def test_any_text_is_read_the_same_however_it_is_cut(
    form: FormName, fragments: list[str], cuts: list[int], most: int | None
) -> None:
    text = "".join(fragments)
    bounds = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    whole = read(form, [text], most)
    assert read(form, [text[start:end] for start, end in pairwise(bounds)], most) == whole
    assert read(form, list(text), most) == whole
    if not whole.calls and not most:
        assert whole.content == text


def test_calls_after_the_most_are_dropped() -> None:
    text = f"<tool_call>{CALL}</tool_call><tool_call>{ADD}</tool_call>"
    assert (
        read("hermes", [text], 1) == read("hermes", list(text), 1) == Read("", [("weather", PARIS)])
    )


def test_name_comes_first_and_arguments_as_they_grow() -> None:
    reader = READERS["hermes"](NAMES)
    pieces = ['<tool_call>{"name": "wea', 'ther", "arguments": {"ci', 'ty": "Par', 'is"}}']
    grown = [[(call.name, call.arguments) for call in reader.feed(piece).calls] for piece in pieces]
    assert grown == [[], [("weather", '{"ci')], [(None, 'ty": "Par')], [(None, 'is"}')]]


@pytest.mark.parametrize("form", READERS)
def test_plain_text_is_not_held_back(form: FormName) -> None:
    reader = READERS[form](NAMES)
    assert [reader.feed(piece).content for piece in ("It ", "is", " sunny.")] == [
        "It",
        " is",
        " sunny.",
    ]


def test_arguments_of_any_object_are_passed_on_unchanged() -> None:
    given_arguments = {"a": '"}]</tool_call>\\', "b": [{}, [None, 1.5e3, "é\n"]], "": {"x": "{"}}
    arguments = json.dumps(given_arguments)
    text = f'<tool_call>{{"name": "add", "arguments": {arguments}}}</tool_call>'
    assert read("hermes", list(text)) == Read("", [("add", arguments)])


@pytest.mark.parametrize(
    ("source", "form"),
    [
        ("{% for tool in tools %}{{ tool | tojson }}{% endfor %}<tool_call>", "hermes"),
        ("<tool_call><function=example>", "json"),
        ("[AVAILABLE_TOOLS][TOOL_CALLS]", "mistral"),
        ('<|start_header_id|>{"name": function name, "parameters": ...}', "llama3"),
        ("{{ '<|python_tag|>' + tool_call.name }}", "llama3"),
        ("<|start_header_id|>{{ message.content }}", "json"),
    ],
)
def test_form_follows_from_the_chat_template(source: str, form: FormName) -> None:
    assert form_of_template(source) == form
