"""Every field that OpenAI's client or vLLM knows is supported, ignored by name, or refused."""

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from openai.types import completion_create_params as text_params
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionContentPartTextParam,
    ChatCompletionDeveloperMessageParam,
    ChatCompletionFunctionMessageParam,
    ChatCompletionStreamOptionsParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
)
from openai.types.chat import completion_create_params as chat_params

from gateway.api.openai import chat_schema, completion_schema
from gateway.api.openai.chat_schema import ChatCompletionRequest
from gateway.api.openai.completion_schema import CompletionRequest
from gateway.api.openai.conversation.messages import CALL, CALLED, MESSAGE, PART
from gateway.api.openai.parameters import FieldRules
from gateway.api.openai.sampling_schema import STREAM_OPTIONS, SamplingRequest
from gateway.api.validation import convert_strictly
from gateway.errors import UnsupportedParameter
from gateway.tenancy.caller import Caller

ID = UUID(int=1)
CALLER = Caller(tenant_id=ID, tenant="acme", app_id=ID, app="mail", api_key_id=ID, instruction=None)
DOCUMENT = Path(__file__).parents[3] / "docs/api.md"
CHAT, TEXT = chat_schema.RULES, completion_schema.RULES
MESSAGES = (
    ChatCompletionAssistantMessageParam,
    ChatCompletionDeveloperMessageParam,
    ChatCompletionFunctionMessageParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
)
VLLM = frozenset(
    [
        "add_special_tokens",
        "allowed_token_ids",
        "bad_words",
        "best_of",
        "cache_salt",
        "detokenize",
        "echo",
        "guided_choice",
        "guided_decoding_backend",
        "guided_grammar",
        "guided_json",
        "guided_json_object",
        "guided_regex",
        "guided_whitespace_pattern",
        "ignore_eos",
        "include_stop_str_in_output",
        "kv_transfer_params",
        "length_penalty",
        "logits_processors",
        "min_p",
        "min_tokens",
        "priority",
        "prompt_logprobs",
        "repetition_detection",
        "repetition_penalty",
        "request_id",
        "response_format",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "stop_token_ids",
        "structural_tag",
        "structured_outputs",
        "top_k",
        "truncate_prompt_tokens",
        "truncation_side",
        "use_beam_search",
        "vllm_xargs",
    ]
)
VLLM_CHAT = VLLM | frozenset(
    [
        "add_generation_prompt",
        "chat_template",
        "chat_template_kwargs",
        "continue_final_message",
        "documents",
        "include_reasoning",
        "media_io_kwargs",
        "mm_processor_kwargs",
        "reasoning_effort",
        "thinking_token_budget",
    ]
)
VLLM_TEXT = VLLM | {"prompt_embeds", "suffix"}


def keys(*forms: Any) -> set[str]:
    return {name for form in forms for name in form.__annotations__}


def kinds(rules: FieldRules, name: str) -> list[bool]:
    return [name in fields for fields in (rules.supported, rules.ignored, rules.refused)]


def body(form: type[SamplingRequest], **fields: object) -> dict[str, Any]:
    if form is CompletionRequest:
        return {"model": "m", "prompt": "king", **fields}
    return {"model": "m", "messages": [{"role": "user", "content": "king"}], **fields}


@pytest.mark.parametrize(
    ("rules", "known"),
    [
        pytest.param(CHAT, keys(chat_params.CompletionCreateParamsStreaming), id="openai-chat"),
        pytest.param(TEXT, keys(text_params.CompletionCreateParamsStreaming), id="openai-text"),
        pytest.param(MESSAGE, keys(*MESSAGES), id="openai-messages"),
        pytest.param(PART, keys(ChatCompletionContentPartTextParam), id="openai-parts"),
        pytest.param(STREAM_OPTIONS, keys(ChatCompletionStreamOptionsParam), id="openai-stream"),
        pytest.param(CHAT, VLLM_CHAT, id="vllm-chat"),
        pytest.param(TEXT, VLLM_TEXT, id="vllm-text"),
        pytest.param(STREAM_OPTIONS, {"continuous_usage_stats"}, id="vllm-stream"),
    ],
)
def test_each_known_field_is_either_supported_ignored_or_refused(
    rules: FieldRules, known: set[str]
) -> None:
    assert len(known) > 0
    assert {name: kinds(rules, name) for name in known if sum(kinds(rules, name)) != 1} == {}


@pytest.mark.parametrize("form", [ChatCompletionRequest, CompletionRequest])
def test_refused_field_is_named_and_its_values_without_effect_are_accepted(
    form: type[SamplingRequest],
) -> None:
    for name, idle in form.rules().refused.items():
        with pytest.raises(UnsupportedParameter, match="not supported by this gateway") as caught:
            form.screen(body(form, **{name: "another value"}))
        assert caught.value.param == name
        for value in (None, *idle):
            assert form.screen(body(form, **{name: value})) == (body(form), [])


@pytest.mark.parametrize("form", [ChatCompletionRequest, CompletionRequest])
def test_ignored_fields_are_named(form: type[SamplingRequest]) -> None:
    names = sorted(form.rules().ignored)
    assert form.screen(body(form, **dict.fromkeys(names, 1))) == (body(form), names)
    assert form.screen(body(form, **dict.fromkeys(names))) == (body(form), [])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_token": 5}, "max_token"),
        ({"structural_tag": {"type": "x"}}, "structural_tag"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.type"),
        ({"echo": 0}, "echo"),
        ({"stream_options": {"chunk": True}}, "stream_options.chunk"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"nam": 1}}]}, "tools[0].function.nam"),
        ({"functions": [{"name": "f", "x": 1}]}, "functions[0].x"),
        ({"messages": [{"role": "tool", "function_call": {}}]}, "messages[0].function_call"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"type": "custom"}]}]},
            "messages[0].tool_calls[0].type",
        ),
        ({"messages": [{"role": "user", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "contents": "x"}]}, "messages[0].contents"),
        ({"messages": [{"role": "user", "name": "x"}]}, "messages[0].name"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "txt": "x"}]}]},
            "messages[0].content[0].txt",
        ),
    ],
)
def test_field_without_support_is_refused_wherever_it_stands(
    fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(UnsupportedParameter, match="by this gateway") as caught:
        ChatCompletionRequest.screen(body(ChatCompletionRequest, **fields))
    assert caught.value.param == param


def test_answer_of_the_client_library_can_be_sent_back_as_a_message() -> None:
    answer: dict[str, Any] = {
        "role": "assistant",
        "content": "king",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }
    fields, ignored = ChatCompletionRequest.screen({"messages": [answer]})
    assert (fields["messages"], ignored) == ([{"role": "assistant", "content": "king"}], [])


def test_fields_that_litellm_adds_to_an_answer_are_ignored_by_name() -> None:
    added = {"provider_specific_fields": {"refusal": None}}
    called = {"name": "f", "arguments": "{}"}
    call = {"id": "a", "type": "function", "function": called}
    sent = {**call, **added, "function": {**called, **added}}
    answers = [
        {"role": "assistant", "tool_calls": [sent], **added},
        {"role": "assistant", "function_call": {**called, **added}},
    ]
    fields, ignored = ChatCompletionRequest.screen({"messages": answers})
    assert fields["messages"] == [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "assistant", "function_call": called},
    ]
    name = "provider_specific_fields"
    places = ("messages[]", "messages[].tool_calls[]", "messages[].tool_calls[].function")
    assert ignored == [f"{each}.{name}" for each in (*places, "messages[].function_call")]


def test_cache_hints_of_parts_are_ignored_by_name() -> None:
    part = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    _, ignored = ChatCompletionRequest.screen({"messages": [{"role": "user", "content": [part]}]})
    assert ignored == ["messages[].content[].cache_control"]


@pytest.mark.parametrize("rules", [CHAT, TEXT, MESSAGE, CALL, CALLED, PART, STREAM_OPTIONS])
def test_every_ignored_and_refused_field_is_documented(rules: FieldRules) -> None:
    document = DOCUMENT.read_text()
    assert [name for name in (*rules.ignored, *rules.refused) if f"`{name}`" not in document] == []


@pytest.mark.parametrize(
    ("form", "fields", "param"),
    [
        (ChatCompletionRequest, {"service_tier": "scale"}, "service_tier"),
        (CompletionRequest, {"prompt": ["x"] * 129}, "prompt"),
        (CompletionRequest, {"prompt": ["x"] * 2, "n": 65}, "prompt"),
        (CompletionRequest, {"prompt": ["x"] * 2, "best_of": 65}, "prompt"),
        (CompletionRequest, {"prompt": ["x", 1]}, "prompt"),
    ],
)
def test_value_that_only_openai_supports_is_refused_by_name(
    form: type[ChatCompletionRequest | CompletionRequest], fields: dict[str, Any], param: str
) -> None:
    request = convert_strictly({"model": "m", **body(form), **fields}, form)
    is_chat = isinstance(request, ChatCompletionRequest)
    read = request.to_request if is_chat else request.to_requests
    with pytest.raises(UnsupportedParameter, match="by this gateway") as caught:
        read(CALLER)
    assert caught.value.param == param
