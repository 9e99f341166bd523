"""What a request offers as tools, and calls and results in its messages."""

from typing import Any
from uuid import UUID

import pytest

from gateway.api.openai.chat_schema import ChatCompletionRequest
from gateway.api.validation import convert_strictly
from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.request import GenerationRequest
from gateway.tenancy.caller import Caller

ID = UUID(int=1)
CALLER = Caller(tenant_id=ID, tenant="acme", app_id=ID, app="mail", api_key_id=ID, instruction=None)
USER = {"role": "user", "content": "Is it warm?"}


def a_tool(name: str = "weather", **more: object) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [named(name) for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


TWO = [a_tool(), a_tool("now")]


def request(**fields: object) -> GenerationRequest:
    screened, _ = ChatCompletionRequest.screen({"model": "m", "messages": [USER], **fields})
    data: ChatCompletionRequest = convert_strictly(screened, ChatCompletionRequest)
    return data.to_request(CALLER)


@pytest.mark.parametrize(
    ("fields", "shown", "required", "may_call", "parallel"),
    [
        ({}, ["weather", "now"], False, ["weather", "now"], True),
        ({"tool_choice": "auto"}, ["weather", "now"], False, ["weather", "now"], True),
        ({"tool_choice": "required"}, ["weather", "now"], True, ["weather", "now"], True),
        ({"tool_choice": named("now")}, ["weather", "now"], True, ["now"], False),
        ({"tool_choice": allowed("auto", "now")}, ["now"], False, ["now"], True),
        ({"tool_choice": allowed("required", "now")}, ["weather", "now"], True, ["now"], True),
        ({"parallel_tool_calls": False}, ["weather", "now"], False, ["weather", "now"], False),
    ],
)
def test_choice_of_tools_limits_the_calls(
    fields: dict[str, Any], shown: list[str], required: bool, may_call: list[str], parallel: bool
) -> None:
    use = request(tools=TWO, **fields).tools
    assert use is not None
    assert (use.names, use.required, use.parallel) == (shown, required, parallel)
    assert [function.name for function in use.callable_functions] == may_call


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"tools": TWO}, "tools[1].function.parameters"),
        ({"tools": TWO, "tool_choice": named("now")}, "tools[1].function.parameters"),
        ({"tools": TWO, "tool_choice": allowed("auto", "now")}, "tools[1].function.parameters"),
        ({"functions": [{"name": "x"}, {"name": "now"}]}, "functions[1].parameters"),
    ],
)
def test_place_of_a_functions_schema_is_that_in_the_request(
    fields: dict[str, Any], place: str
) -> None:
    use = request(**fields).tools
    assert use is not None
    (now,) = (function for function in use.functions if function.name == "now")
    assert use.parameters_of(now) == place


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {"tools": TWO, "tool_choice": "none"},
        {"functions": [{"name": "now"}], "function_call": "none"},
    ],
)
def test_request_that_must_not_call_has_no_tools(fields: dict[str, Any]) -> None:
    assert request(**fields).tools is None


def test_functions_of_old_are_called_one_at_a_time_in_their_own_form() -> None:
    use = request(functions=[{"name": "now"}, {"name": "x"}], function_call={"name": "now"}).tools
    assert use is not None
    assert (use.format, use.required, use.parallel) == ("function_call", True, False)
    assert use.callable == ("now",)


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"tools": [a_tool("a b")]}, InvalidRequest, "tools[0].function.name"),
        ({"tools": [a_tool(""), a_tool()]}, InvalidRequest, "tools[0].function.name"),
        ({"tools": [a_tool(), a_tool()]}, InvalidRequest, "tools[1].function.name"),
        ({"functions": [{"name": "é"}]}, InvalidRequest, "functions[0].name"),
        ({"tools": [a_tool(parameters=[])]}, InvalidRequest, "tools[0].function.parameters"),
        ({"tools": [a_tool(f"f{n}") for n in range(129)]}, InvalidRequest, "tools"),
        ({"tools": [a_tool(description="x" * (1 << 18))]}, InvalidRequest, "tools"),
        ({"tools": TWO, "functions": [{"name": "x"}]}, InvalidRequest, "functions"),
        ({"tools": TWO, "tool_choice": "any"}, InvalidRequest, "tool_choice"),
        ({"tools": TWO, "tool_choice": named("other")}, InvalidRequest, "tool_choice"),
        ({"tools": TWO, "tool_choice": allowed("auto")}, InvalidRequest, "tool_choice"),
        ({"tools": TWO, "tool_choice": {"type": "custom"}}, UnsupportedParameter, "tool_choice"),
        ({"tools": TWO, "function_call": {"name": "now"}}, InvalidRequest, "function_call"),
        ({"tool_choice": "required"}, InvalidRequest, "tool_choice"),
        ({"functions": [{"name": "x"}], "function_call": "all"}, InvalidRequest, "function_call"),
    ],
)
def test_bad_tools_are_named(
    fields: dict[str, Any], kind: type[InvalidRequest], param: str
) -> None:
    with pytest.raises(kind) as caught:
        request(**fields)
    assert caught.value.param == param


def a_call(number: str = "call_1", arguments: str = '{"city": "Paris"}') -> dict[str, Any]:
    function = {"name": "weather", "arguments": arguments}
    return {"id": number, "type": "function", "function": function}


def test_calls_and_results_reach_the_template() -> None:
    asked = {"role": "assistant", "content": None, "tool_calls": [a_call(), a_call("2", "{bad")]}
    results = [
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "17"}]},
        {"role": "tool", "tool_call_id": "2", "content": "wrong", "name": "mine"},
    ]
    turns = request(messages=[USER, asked, *results]).conversation()
    assert turns[1:] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": {"city": "Paris"}},
                },
                {
                    "id": "2",
                    "type": "function",
                    "function": {"name": "weather", "arguments": "{bad"},
                },
            ],
        },
        {"role": "tool", "content": "17", "tool_call_id": "call_1", "name": "weather"},
        {"role": "tool", "content": "wrong", "tool_call_id": "2", "name": "mine"},
    ]


def test_function_call_of_old_and_its_result_are_a_call_and_a_result() -> None:
    called = {"role": "assistant", "function_call": {"name": "now", "arguments": "{}"}}
    result = {"role": "function", "name": "now", "content": "noon"}
    turns = request(messages=[USER, called, result]).conversation()
    (call,) = turns[1]["tool_calls"]
    assert call["function"] == {"name": "now", "arguments": {}}
    assert turns[2] == {
        "role": "tool",
        "content": "noon",
        "tool_call_id": call["id"],
        "name": "now",
    }


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x"}, "messages[1].tool_call_id"),
        ({"role": "tool", "content": "x", "tool_call_id": "y"}, "messages[1].tool_call_id"),
        ({"role": "function", "content": "x", "name": "y"}, "messages[1].name"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "messages[1].tool_calls[0].type"),
    ],
)
def test_result_of_an_unknown_call_is_named(message: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(messages=[USER, message])
    assert caught.value.param == param


def test_predictor_reads_names_and_descriptions_of_tools_as_instruction() -> None:
    system = {"role": "system", "content": "Be brief."}
    tools = [a_tool(description="Weather in a city", parameters={"type": "object"}), a_tool("now")]
    asked = request(messages=[system, USER], tools=tools)
    assert asked.instruction == "Be brief.\nweather: Weather in a city\nnow"
    assert asked.user_input == USER["content"]
