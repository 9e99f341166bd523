"""`/v1/length-predictions`: the predicted length without the answer."""

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.conftest import PATIENCE_S
from tests.e2e.conftest import Served

Asked = Callable[..., dict[str, Any]]
PATH = "/length-predictions"


async def test_prediction_equals_the_completions_header(
    client: openai.AsyncOpenAI, asked: Asked
) -> None:
    body = asked("translate", "brave queen finds golden castle", max_tokens=40)
    async with asyncio.timeout(PATIENCE_S):
        while True:  # an answer may end before the model has predicted it
            prediction = await client.post(PATH, body=body, cast_to=dict[str, Any])
            answer = await client.chat.completions.with_raw_response.create(**body)
            if answer.headers["x-lmaas-prediction-source"] == prediction["source"]:
                break
    quantiles = list(prediction["quantiles"].values())
    assert quantiles == sorted(quantiles)
    assert quantiles[0] >= 1
    assert quantiles[-1] <= prediction["max_tokens"] == 40
    assert abs(prediction["predicted_tokens"] - prediction["quantiles"]["p50"]) <= 0.5
    assert answer.headers["x-lmaas-predicted-tokens"] == str(prediction["predicted_tokens"])
    completion = answer.parse()
    assert completion.usage is not None
    assert prediction["prompt_tokens"] == completion.usage.prompt_tokens


async def test_nothing_runs_and_nothing_is_recorded(
    served: Served, client: openai.AsyncOpenAI, asked: Asked
) -> None:
    await served.idle()
    before = await served.engine_stats()
    for _ in range(3):
        prediction = await client.post(PATH, body=asked("spell", "king"), cast_to=dict[str, Any])
        assert prediction["object"] == "length_prediction"
    assert (await served.engine_stats())["finished"] == before["finished"]


async def test_request_that_cannot_fit_is_refused(client: openai.AsyncOpenAI, asked: Asked) -> None:
    with pytest.raises(openai.BadRequestError, match="context"):
        await client.post(
            PATH, body=asked("translate", "king", max_tokens=10**6), cast_to=dict[str, Any]
        )
