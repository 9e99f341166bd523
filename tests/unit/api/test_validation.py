"""What does not fit a declared type is named, with what is accepted."""

from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct

from gateway.api.admin.policy import PolicyRequest
from gateway.api.admin.scoped_keys import ScopedKeyRequest
from gateway.api.openai.chat_schema import ChatCompletionRequest
from gateway.api.validation import convert_strictly
from gateway.errors import InvalidRequest


class Level(Enum):
    LOW = 1
    HIGH = 2


class Keyed(Struct):
    names: dict[Annotated[str, Meta(max_length=2)], int]


class Item(Struct):
    levels: dict[str, list[Level]] | None = None
    side: Literal["left", "right"] | int | None = None


@pytest.mark.parametrize(
    ("kind", "value", "param", "accepted"),
    [
        (
            ChatCompletionRequest,
            {"model": "m", "messages": [{"role": "user"}, {"role": "bot"}]},
            "messages[1].role",
            "assistant, developer, function, system, tool, user",
        ),
        (
            PolicyRequest,
            {"name": "lmaas", "admission": "upper"},
            "admission",
            "held, maximum, own, peak, reserved",
        ),
        (
            ScopedKeyRequest,
            {"name": "k", "scopes": ["read", "write"]},
            "scopes[1]",
            "read, tenants, predictors, engine",
        ),
        (Item, {"levels": {"a": [1, 3]}}, "levels[...][1]", "1, 2"),
        (Item, {"side": "top"}, "side", "left, right"),
        (Item | None, {"side": "top"}, "side", "left, right"),
    ],
    ids=["role", "admission", "scope", "nested", "union", "optional"],
)
def test_value_that_is_not_in_an_enumeration_is_refused_with_those_that_are(
    kind: Any, value: Any, param: str, accepted: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        convert_strictly(value, kind)
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param}: invalid enum value")
    assert caught.value.message.endswith(f"; accepted are {accepted}")


def test_a_key_that_does_not_fit_is_named_by_its_object() -> None:
    with pytest.raises(InvalidRequest, match="length <= 2") as caught:
        convert_strictly({"names": {"abc": 1}}, Keyed)
    assert caught.value.param == "names"
