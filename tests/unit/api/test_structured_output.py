"""The fields that give an answer a form, and the grammar that each becomes."""

import json
from typing import Any
from uuid import UUID

import msgspec
import pytest

from engine.protocol import Grammar
from gateway.api.openai.batches.endpoints import ENDPOINTS
from gateway.api.openai.chat_schema import ChatCompletionRequest
from gateway.errors import InvalidRequest
from gateway.generation.request import GenerationRequest
from gateway.tenancy.authentication import Caller

ID = UUID(int=1)
CALLER = Caller(tenant_id=ID, tenant="acme", app_id=ID, app="mail", api_key_id=ID, instruction=None)
SCHEMA = {"type": "array"}


def request(**fields: Any) -> GenerationRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    kept, _ = ChatCompletionRequest.screen(body)
    return msgspec.convert(kept, ChatCompletionRequest).to_request(CALLER)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": SCHEMA},
                }
            },
            "response_format.json_schema.schema",
        ),
        ({"guided_json": SCHEMA}, "guided_json"),
        ({"guided_json": json.dumps(SCHEMA)}, "guided_json"),
        ({"structured_outputs": {"json": SCHEMA}}, "structured_outputs.json"),
    ],
)
def test_a_schema_is_the_same_grammar_by_every_field(fields: dict[str, Any], param: str) -> None:
    asked = request(**fields)
    assert asked.grammar == request(guided_json=SCHEMA).grammar
    assert asked.grammar_param == param


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response_format": {"type": "text"}},
        {"guided_json_object": False},
        {"structured_outputs": {"regex": None, "json_object": False}},
    ],
)
def test_any_text_is_no_grammar(fields: dict[str, Any]) -> None:
    assert request(**fields).grammar is None


def test_one_form_at_a_time_is_accepted() -> None:
    with pytest.raises(InvalidRequest, match="both set") as caught:
        request(response_format={"type": "json_object"}, guided_regex="a")
    assert caught.value.param == "guided_regex"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[]"}, "guided_json"),
    ],
)
def test_what_is_no_schema_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(**fields)
    assert caught.value.param == param


def test_lines_of_jobs_have_forms_too() -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "structured_outputs": {"regex": "a+"},
    }
    endpoint = ENDPOINTS["/v1/chat/completions"]
    read = endpoint.read(json.dumps(body).encode(), CALLER, "m")
    assert read.grammar == Grammar("regex", "a+")
