"""`/v1/length-predictions`: the predicted length without the answer."""

import asyncio
import math
from collections.abc import Callable
from decimal import Decimal
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
        while True:  # each shows the newest of the predictions that have come by then
            prediction = await client.post(PATH, body=body, cast_to=dict[str, Any])
            answer = await client.chat.completions.with_raw_response.create(**body)
            shown = prediction["source"], str(prediction["predicted_tokens"])
            headers = answer.headers
            if shown == (
                headers["x-lmaas-prediction-source"],
                headers["x-lmaas-predicted-tokens"],
            ):
                break
    quantiles = list(prediction["quantiles"].values())
    assert quantiles == sorted(quantiles)
    assert quantiles[0] >= 1
    assert quantiles[-1] <= prediction["max_tokens"] == 40
    assert abs(prediction["predicted_tokens"] - prediction["quantiles"]["p50"]) <= 0.5
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


async def test_cost_is_that_of_the_predicted_tokens(
    served: Served, client: openai.AsyncOpenAI, asked: Asked
) -> None:
    body = asked("translate", "brave queen", n=2)
    unpriced = await client.post(PATH, body=body, cast_to=dict[str, Any])
    assert unpriced["cost"] is None
    price = {"model": body["model"], "input": "0.15", "cached_input": "0", "output": "0.6"}
    async with served.admin() as admin:
        placed = (await admin.post("/admin/prices", json=price)).json()
        try:
            priced = await client.post(PATH, body=body, cast_to=dict[str, Any])
        finally:
            await admin.delete(f"/admin/prices/{placed['id']}")
    prompt = priced["prompt_tokens"] * Decimal("0.15")
    mean, p90 = Decimal(str(priced["mean_tokens"])), math.ceil(priced["quantiles"]["p90"])
    million = 10**6
    assert Decimal(priced["cost"]["expected"]) * million == prompt + 2 * mean * Decimal("0.6")
    # The quantile of the answer is rounded, the one that was priced is not.
    over = Decimal(priced["cost"]["p90"]) * million - (prompt + 2 * p90 * Decimal("0.6"))
    assert over in {0, 2 * Decimal("0.6")}


async def test_request_that_cannot_fit_is_refused(client: openai.AsyncOpenAI, asked: Asked) -> None:
    with pytest.raises(openai.BadRequestError, match="context"):
        await client.post(
            PATH, body=asked("translate", "king", max_tokens=10**6), cast_to=dict[str, Any]
        )


async def test_several_bodies_of_both_kinds_are_predicted_in_one_call(
    client: openai.AsyncOpenAI, asked: Asked
) -> None:
    chat = asked("translate", "brave queen", max_tokens=40)
    text = {"model": chat["model"], "prompt": ["king", "queen"], "max_tokens": 8}
    found = await client.post(PATH, body={"requests": [chat, text]}, cast_to=dict[str, Any])
    assert found["object"] == "list"
    assert [each["max_tokens"] for each in found["data"]] == [40, 8, 8]
    alone = await client.post(PATH, body=text, cast_to=dict[str, Any])
    assert len(alone["data"]) == 2


async def test_an_idle_gateway_expects_no_wait_and_a_deadline_to_be_met(
    served: Served, client: openai.AsyncOpenAI, asked: Asked
) -> None:
    await served.idle()
    body = asked("translate", "king", max_tokens=8, metadata={"x-lmaas-deadline-ms": "86400000"})
    found = await client.post(PATH, body=body, cast_to=dict[str, Any])
    assert found["expected_start_s"]["p50"] <= found["expected_finish_s"]["p50"]
    assert found["deadline_met"] == "likely"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"requests": []}, "requests"),
        ({"requests": [{}] * 33}, "requests"),
        ({"requests": [3]}, "requests"),
        ({"requests": [{"model": "lmaas-demo", "prompt": 3.5}]}, "requests[0].prompt"),
        ({"requests": [{}], "model": "lmaas-demo"}, "requests"),
    ],
)
async def test_wrong_requests_are_named(
    client: openai.AsyncOpenAI, body: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.post(PATH, body=body, cast_to=dict[str, Any])
    assert refused.value.param == param
