from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import Grammar
from gateway.errors import ContextLengthExceeded, InvalidRequest
from gateway.generation.request import GenerationRequest, answer_limit
from gateway.generation.tools.definition import Function, ToolUse


def test_registered_instruction_is_the_default(
    a_request: Callable[..., GenerationRequest],
) -> None:
    request = a_request(("user", "hello"), registered="Be brief.")
    assert request.instruction == "Be brief."
    assert [turn["role"] for turn in request.conversation()] == ["system", "user"]


def test_system_message_replaces_the_registered_instruction(
    a_request: Callable[..., GenerationRequest],
) -> None:
    request = a_request(("system", "Sing."), ("user", "hello"), registered="Be brief.")
    assert request.instruction == "Sing."
    assert [turn["content"] for turn in request.conversation()] == ["Sing.", "hello"]


@pytest.mark.parametrize(
    ("role", "registered", "expected"),
    [("user", "Be brief.", True), ("user", None, False), ("developer", "Be brief.", False)],
)
def test_registered_instruction_is_distinguished_from_the_clients(
    a_request: Callable[..., GenerationRequest], role: str, registered: str | None, expected: bool
) -> None:
    assert a_request((role, "hello"), registered=registered).registered is expected


def test_user_input_is_the_last_user_message(
    a_request: Callable[..., GenerationRequest],
) -> None:
    assert a_request(("user", "one"), ("assistant", "1"), ("user", "two")).user_input == "two"


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({}, "free"),
        ({"tools": ToolUse((Function("f"),))}, "free"),
        ({"grammar": Grammar("regex", "x+")}, "json"),
        ({"grammar": Grammar("json_schema", "{}"), "tools": ToolUse((Function("f"),))}, "json"),
        ({"tools": ToolUse((Function("f"),), required=True)}, "tool"),
    ],
)
def test_form_of_an_answer_is_what_the_request_makes_certain(
    a_request: Callable[..., GenerationRequest], fields: dict[str, object], form: str
) -> None:
    assert a_request(**fields).form == form


@given(prompt=st.integers(1, 50), wanted=st.none() | st.integers(1, 50), context=st.integers(1, 50))
def test_answer_never_outgrows_the_context(prompt: int, wanted: int | None, context: int) -> None:
    fits = prompt + (wanted or 1) <= context
    if fits:
        limit = answer_limit(prompt, wanted, context)
        assert limit == (wanted or context - prompt)
    else:
        with pytest.raises(ContextLengthExceeded):
            answer_limit(prompt, wanted, context)


def test_max_tokens_below_one_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="at least 1") as caught:
        answer_limit(5, 0, 100)
    assert caught.value.param == "max_tokens"


def test_max_tokens_that_does_not_fit_is_named_with_the_number_that_does() -> None:
    with pytest.raises(ContextLengthExceeded, match="at most 95 fits") as caught:
        answer_limit(5, 96, 100, limit_param="max_completion_tokens")
    assert caught.value.param == "max_completion_tokens"


def test_prompt_that_leaves_no_room_is_named_whatever_max_tokens_is() -> None:
    with pytest.raises(ContextLengthExceeded, match="the prompt takes 100") as caught:
        answer_limit(100, 5, 100, param="prompt")
    assert caught.value.param == "prompt"
