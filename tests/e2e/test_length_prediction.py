"""The length of an answer, asked for without the answer."""

from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.e2e.conftest import Served

Asked = Callable[..., dict[str, Any]]
PATH = "/length-predictions"


async def test_it_is_what_the_completion_would_carry(
    client: openai.AsyncOpenAI, asked: Asked
) -> None:
    body = asked("translate", "brave queen finds golden castle", max_tokens=40)
    told = await client.post(PATH, body=body, cast_to=dict[str, Any])
    answer = await client.chat.completions.with_raw_response.create(**body)
    quantiles = list(told["quantiles"].values())
    assert quantiles == sorted(quantiles)
    assert quantiles[0] >= 1
    assert quantiles[-1] <= told["max_tokens"] == 40
    assert abs(told["predicted_tokens"] - told["quantiles"]["p50"]) <= 0.5
    assert answer.headers["x-lmaas-predicted-tokens"] == str(told["predicted_tokens"])
    completion = answer.parse()
    assert completion.usage is not None
    assert told["prompt_tokens"] == completion.usage.prompt_tokens


async def test_nothing_runs_and_nothing_is_recorded(
    served: Served, client: openai.AsyncOpenAI, asked: Asked
) -> None:
    await served.idle()
    before = await served.engine_stats()
    for _ in range(3):
        told = await client.post(PATH, body=asked("spell", "king"), cast_to=dict[str, Any])
        assert told["object"] == "length_prediction"
    assert (await served.engine_stats())["finished"] == before["finished"]


async def test_what_could_never_run_is_refused(client: openai.AsyncOpenAI, asked: Asked) -> None:
    with pytest.raises(openai.BadRequestError, match="context"):
        await client.post(
            PATH, body=asked("translate", "king", max_tokens=10**6), cast_to=dict[str, Any]
        )
