"""Grammars of tool calls: their texts are read as valid calls, and other texts are refused."""

import re
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from tokenizers import AddedToken, Tokenizer

from engine.checkpoints.catalogue import DEMO_FOLDER
from engine.grammar.compiler import Compiler
from engine.protocol import Grammar
from gateway.errors import InvalidRequest
from gateway.generation.grammar.calls import MAX_CALLS, call_grammar
from gateway.generation.tools.definition import Function, ToolUse
from gateway.generation.tools.forms import MARKS, READERS, FormName

CITY = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/city"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"city": {"enum": ["Paris", "Oslo"]}},
}
WEATHER, NOW = Function("weather", parameters=CITY), Function("now")
ANY = ToolUse((WEATHER, NOW), required=True)
ONE = ToolUse((WEATHER, NOW), required=True, callable=("weather",), parallel=False)
STRICT = ToolUse((Function("weather", parameters=CITY, strict=True), NOW))
CONTENT = Grammar("json_schema", '{"const": 5}')


class Language:
    """Tokens of the demo model, with the marks of calls as tokens of their own or as text."""

    def __init__(self, folder: Path, *, marks_are_tokens: bool) -> None:
        self.tokenizer = Tokenizer.from_file(str(DEMO_FOLDER / "tokenizer.json"))
        if marks_are_tokens:
            self.tokenizer.add_tokens([AddedToken(mark, special=False) for mark in MARKS[:2]])
            self.tokenizer.add_special_tokens([AddedToken(mark) for mark in MARKS[2:]])
        file = folder / "tokenizer.json"
        self.tokenizer.save(str(file))
        added = self.tokenizer.get_added_tokens_decoder()
        self.marks = {token.content: number for number, token in added.items()}
        self.end = self.marks["<|end|>"]
        self.compiler = Compiler(file, self.tokenizer.get_vocab_size(), [self.end])

    def grammar(self, form: FormName, use: ToolUse, content: Grammar | None = None) -> Grammar:
        marks = {mark: number for mark, number in self.marks.items() if mark in MARKS}
        grammar = call_grammar(form, use, content, marks, param="response_format")
        assert grammar is not None
        return grammar

    def accepts(self, grammar: Grammar, text: str) -> bool:
        matcher = self.compiler.compile(grammar).matcher.deep_copy()
        parts = re.split(f"({'|'.join(map(re.escape, MARKS))})", text)
        ids = [token for part in parts for token in self._ids(part)]
        return all(map(matcher.consume_token, ids)) and bool(matcher.is_accepting())

    def _ids(self, text: str) -> list[int]:
        return (
            [self.marks[text]]
            if text in self.marks
            else self.compiler._tokenizer.tokenize_str(text)
        )

    def draw(self, grammar: Grammar, seed: int, most: int = 400) -> str | None:
        """A random text of the grammar; None if it has not ended after `most` tokens."""
        compiled = self.compiler.compile(grammar)
        matcher, random, ids = compiled.matcher.deep_copy(), Random(seed), list[int]()
        bitmask = allocate_token_bitmask(1, compiled.width)
        while not matcher.is_stopped():
            fill_next_token_bitmask(matcher, bitmask)
            bits = np.unpackbits(bitmask.view(np.uint8), bitorder="little")
            token = random.choice(np.flatnonzero(bits).tolist())
            if token == self.end:
                break
            ids.append(token)
            if len(ids) > most:
                return None
            assert matcher.consume_token(token)
        return self.tokenizer.decode(ids, skip_special_tokens=False)


@pytest.fixture(scope="module", params=[True, False], ids=["tokens", "text"])
def language(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Language:
    return Language(tmp_path_factory.mktemp("language"), marks_are_tokens=request.param)


PARIS = '{"city": "Paris"}'
CALLS: dict[FormName, str] = {
    "hermes": f'<tool_call>\n{{"name": "weather", "arguments": {PARIS}}}\n</tool_call>',
    "json": f'<tool_call>\n{{"name": "weather", "arguments": {PARIS}}}\n</tool_call>',
    "llama3": f'{{"name": "weather", "parameters": {PARIS}}}',
    "mistral": f'[TOOL_CALLS][{{"name": "weather", "arguments": {PARIS}}}]',
}


@pytest.mark.parametrize("form", CALLS)
def test_required_call_is_accepted_and_nothing_else(language: Language, form: FormName) -> None:
    grammar = language.grammar(form, ANY)
    assert language.accepts(grammar, CALLS[form])
    for wrong in ("Paris", CALLS[form].replace("Paris", "Rome"), f"Well. {CALLS[form]}"):
        assert not language.accepts(grammar, wrong)
    now = CALLS[form].replace("weather", "now").replace(PARIS, "{}")
    assert language.accepts(grammar, now)
    assert not language.accepts(language.grammar(form, ONE), now)


def test_calls_are_several_only_in_parallel(language: Language) -> None:
    two = "\n".join([CALLS["hermes"]] * 2)
    many = "\n".join([CALLS["hermes"]] * (MAX_CALLS + 1))
    assert language.accepts(language.grammar("hermes", ANY), two)
    assert not language.accepts(language.grammar("hermes", ANY), many)
    assert not language.accepts(language.grammar("hermes", ONE), two)


@pytest.mark.parametrize("form", CALLS)
def test_strict_function_is_held_to_its_schema_where_it_is_called(
    language: Language, form: FormName
) -> None:
    grammar = language.grammar(form, STRICT)
    assert language.accepts(grammar, "It is warm in <tool Paris.")
    assert language.accepts(grammar, CALLS[form])
    assert not language.accepts(grammar, CALLS[form].replace("Paris", "Rome"))
    if form != "llama3":
        assert language.accepts(grammar, f"Well. {CALLS[form]}")
        assert not language.accepts(grammar, f"Well. {CALLS[form].replace('Paris', 'Rome')}")


@pytest.mark.parametrize("form", CALLS)
def test_answer_with_a_schema_has_content_of_it_or_calls(
    language: Language, form: FormName
) -> None:
    grammar = language.grammar(form, ToolUse((NOW,)), CONTENT)
    now = CALLS[form].replace("weather", "now").replace(PARIS, '{"a": 1}')
    assert [language.accepts(grammar, text) for text in ("5", now, "6")] == [True, True, False]


@pytest.mark.parametrize("use", [ANY, ONE], ids=["any", "one"])
@pytest.mark.parametrize("form", CALLS)
def test_random_text_of_a_grammar_is_read_as_valid_calls(
    language: Language, form: FormName, use: ToolUse
) -> None:
    grammar = language.grammar(form, use)
    for seed in range(4):
        text = language.draw(grammar, seed)
        if text is None:
            continue
        reader = READERS[form](use.names)
        first, rest = reader.feed(text), reader.finish()
        assert (first.content + rest.content, rest.calls) == ("", [])
        for call in first.calls:
            arguments = msgspec.json.decode(call.arguments)
            assert call.name in (use.callable or use.names)
            assert call.name == "now" or arguments["city"] in {"Paris", "Oslo"}
        assert len(first.calls) == 1 or use.parallel


def test_answer_is_free_unless_something_limits_it() -> None:
    use = ToolUse((NOW,))
    assert call_grammar("hermes", use, None, {}, param="response_format") is None
    with pytest.raises(InvalidRequest, match="only accepted without tools") as caught:
        call_grammar("hermes", use, Grammar("regex", "a"), {}, param="guided_regex")
    assert caught.value.param == "guided_regex"
