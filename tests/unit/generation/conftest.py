from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from gateway.generation.ask import Ask, Message
from gateway.generation.tokens import ChatTokenizer
from gateway.tenancy.caller import Caller

DEMO = Path(__file__).parents[3] / "engine" / "demo" / "lmaas-demo"


@pytest.fixture(scope="session")
def tokenizer() -> ChatTokenizer:
    return ChatTokenizer(DEMO)


@pytest.fixture
def an_ask() -> Callable[..., Ask]:
    def build(
        *turns: tuple[str, str], registered: str | None = None, stops: tuple[str, ...] = ()
    ) -> Ask:
        caller = Caller(
            tenant_id=UUID(int=1),
            tenant="tenant",
            app_id=UUID(int=2),
            app="app",
            api_key_id=UUID(int=3),
            instruction=registered,
        )
        messages = tuple(Message(*turn) for turn in turns or [("user", "brave king")])
        return Ask(caller=caller, messages=messages, stops=stops)

    return build
