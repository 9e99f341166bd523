"""Grammars of JSON schemas and choices, as the engine gets them."""

import json

import pytest

from gateway.errors import InvalidRequest
from gateway.generation.grammar.schemas import (
    MAX_DEPTH,
    OPTIONS,
    choice_grammar,
    enforced_schema,
    json_grammar,
)


def test_formats_without_a_rule_are_dropped_where_they_are_keywords() -> None:
    schema = {
        "properties": {
            "format": {"type": "string", "format": "password"},
            "when": {"type": "string", "format": "date"},
        },
        "anyOf": [{"format": "int32"}],
        "const": {"format": "binary"},
    }
    kept = enforced_schema(schema, param="p")
    assert kept["properties"] == {
        "format": {"type": "string"},
        "when": {"type": "string", "format": "date"},
    }
    assert (kept["anyOf"], kept["const"]) == ([{}], {"format": "binary"})


def test_a_client_cannot_set_the_librarys_options() -> None:
    schema = {"type": "object", OPTIONS: {"lenient": True}}
    assert "lenient" not in json_grammar(schema).source
    tight = json.loads(json_grammar(schema, whitespace="").source)
    assert tight[OPTIONS] == {"whitespace_flexible": False}


def test_properties_keep_the_schemas_order() -> None:
    source = json_grammar({"properties": {"b": {}, "a": {}}}).source
    assert source.index('"b"') < source.index('"a"')


def test_a_schema_that_is_nested_too_deep_is_refused() -> None:
    schema: dict[str, object] = {}
    for _ in range(MAX_DEPTH):
        schema = {"not": schema}
    json_grammar(schema)
    with pytest.raises(InvalidRequest, match="nested too deep") as caught:
        json_grammar({"not": schema}, param="guided_json")
    assert caught.value.param == "guided_json"


def test_choices_are_literal_texts() -> None:
    assert '"a \\"\\n"' in choice_grammar(['a "\n', "b"]).source
