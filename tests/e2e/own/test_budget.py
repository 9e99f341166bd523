"""An answer that outgrows a budget, on a gateway where few answers were long before."""

from collections.abc import Callable
from typing import Any

import openai
import pytest

from gateway.api.usage.rate_limits import LIMIT
from tests.e2e.test_limits import WORDS, Limited

Asked = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_an_answer_that_outgrows_its_budget_ends_with_length_and_says_so(
    own: Any, asked: Asked, stream: bool
) -> None:
    """The answer would be longer than predicted; the budget has room for all but a token."""
    gateway = await own.running()
    limited = Limited(gateway, *await gateway.tenant(f"budget {stream}"))
    stop_ids = {"4": -100}  # of the demo model
    request = {**asked("translate", WORDS), "logit_bias": stop_ids, "max_tokens": None}
    async with gateway.caller() as caller:
        predicted = (await caller.post("/v1/length-predictions", json=request)).json()
    longest = min(round(1.2 * predicted["quantiles"]["p90"]) + 20, predicted["max_tokens"])
    request |= {"max_tokens": longest, "stream": stream}
    await limited.limit("tokens_per_day", predicted["prompt_tokens"] + longest - 1)
    async with limited.client as client:
        answer = await client.chat.completions.with_raw_response.create(**request)
        parsed: Any = answer.parse()
        if stream:
            choice = [chunk async for chunk in parsed][-1].choices[0]
        else:
            assert answer.headers[LIMIT] == "tenant tokens_per_day"
            choice = parsed.choices[0]
            assert parsed.usage.completion_tokens == longest - 1
        assert (choice.finish_reason, choice.limited_by) == ("length", "tenant tokens_per_day")
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(**request)
        assert refused.value.response.headers["x-ratelimit-remaining-tokens"] == "0"
