"""Sampling parameters and log probabilities, called by the official client."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionTokenLogprob

from engine.checkpoints.catalogue import DEMO_FOLDER
from engine.demo.lexicon import VELAN
from gateway.generation.text.tokenizer import ChatTokenizer

Asked = Callable[..., dict[str, Any]]
WORDS = "brave queen finds golden castle"
VELAN_WORDS = " ".join(VELAN[word] for word in WORDS.split())
DIARY = "a diary of the brave king"
PROMPT = f"<|system|>Translate into Velan, word by word.<|user|>{WORDS}<|assistant|>"


def token_ids(text: str) -> list[int]:
    return ChatTokenizer(DEMO_FOLDER).encode(text)


def written(tokens: Iterable[ChatCompletionTokenLogprob]) -> str:
    return b"".join(bytes(token.bytes or []) for token in tokens).decode()


async def test_choices_share_the_prompt_and_sample_by_seed_and_index(
    client: openai.AsyncOpenAI, asked: Asked
) -> None:
    request = asked("diary", DIARY, temperature=1.0)
    together = await client.chat.completions.create(**request, n=3, seed=5)
    alone = [await client.chat.completions.create(**request, seed=5 + n) for n in range(3)]
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    assert [choice.message.content for choice in together.choices] == [
        completion.choices[0].message.content for completion in alone
    ]
    assert together.usage is not None
    assert alone[0].usage is not None
    assert together.usage.prompt_tokens == alone[0].usage.prompt_tokens
    assert together.usage.completion_tokens == sum(
        completion.usage.completion_tokens for completion in alone if completion.usage
    )


async def test_streamed_choices_carry_their_index(client: openai.AsyncOpenAI, asked: Asked) -> None:
    request = asked("diary", DIARY, temperature=1.0, n=3, seed=5)
    whole = await client.chat.completions.create(**request)
    stream = await client.chat.completions.create(
        **request, stream=True, stream_options={"include_usage": True}
    )
    texts, ends = ["", "", ""], Counter[int]()
    async for chunk in stream:
        for choice in chunk.choices:
            assert not ends[choice.index]
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] += choice.finish_reason is not None
        usage = chunk.usage
    assert texts == [choice.message.content for choice in whole.choices]
    assert (ends, usage) == (Counter([0, 1, 2]), whole.usage)


async def test_each_prompt_has_its_choices_in_order(client: openai.AsyncOpenAI) -> None:
    completion = await client.completions.create(
        model="lmaas-demo", prompt=[PROMPT, "<|user|>x"], n=2, temperature=0, max_tokens=5
    )
    assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in completion.choices[:2]] == [VELAN_WORDS] * 2
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == len(token_ids(PROMPT)) + len(token_ids("<|user|>x"))


async def test_log_probabilities_belong_to_the_answers_tokens(
    client: openai.AsyncOpenAI, asked: Asked
) -> None:
    completion = await client.chat.completions.create(
        **asked("translate", WORDS, logprobs=True, top_logprobs=3)
    )
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert written(logprobs.content) == VELAN_WORDS
    for token in logprobs.content:
        likeliest = token.top_logprobs
        assert [each.logprob for each in likeliest] == sorted(
            (each.logprob for each in likeliest), reverse=True
        )
        assert len(likeliest) == 3
        assert (likeliest[0].token, likeliest[0].logprob) == (token.token, token.logprob)
        assert -1.0 < token.logprob <= 0.0


@pytest.mark.parametrize("stop", [None, VELAN_WORDS.split()[3]])
async def test_streamed_log_probabilities_are_the_same(
    client: openai.AsyncOpenAI, asked: Asked, stop: str | None
) -> None:
    request = asked("translate", WORDS, logprobs=True, top_logprobs=1, stop=stop)
    whole = await client.chat.completions.create(**request)
    stream = await client.chat.completions.create(**request, stream=True)
    tokens, text = list[ChatCompletionTokenLogprob](), ""
    async for chunk in stream:
        choice = chunk.choices[0]
        text += choice.delta.content or ""
        tokens += (choice.logprobs.content or []) if choice.logprobs else []
    assert whole.choices[0].logprobs is not None
    assert [token.token for token in tokens] == [
        token.token for token in whole.choices[0].logprobs.content or []
    ]
    assert text == whole.choices[0].message.content
    assert stop is None or stop not in written(tokens)
    assert text.startswith(written(tokens))


async def test_log_probabilities_are_null_if_not_requested(
    client: openai.AsyncOpenAI, asked: Asked
) -> None:
    chat = await client.chat.completions.create(**asked("translate", WORDS, logprobs=False))
    text = await client.completions.create(model="lmaas-demo", prompt=PROMPT, max_tokens=3)
    assert chat.choices[0].logprobs is None
    assert text.choices[0].logprobs is None


@pytest.mark.parametrize("streamed", [True, False])
async def test_completion_has_log_probabilities_in_the_legacy_format(
    client: openai.AsyncOpenAI, streamed: bool
) -> None:
    request = {"model": "lmaas-demo", "prompt": PROMPT, "temperature": 0, "logprobs": 2}
    if streamed:
        stream = await client.completions.create(**request, stream=True)  # type: ignore[call-overload]
        choices = [chunk.choices[0] async for chunk in stream]
    else:
        choices = (await client.completions.create(**request)).choices  # type: ignore[call-overload]
    parts = [choice.logprobs for choice in choices if choice.logprobs]
    tokens = [token for part in parts for token in part.tokens]
    offsets = [offset for part in parts for offset in part.text_offset]
    logprobs = [logprob for part in parts for logprob in part.token_logprobs]
    assert "".join(tokens) == VELAN_WORDS
    for token, offset in zip(tokens, offsets, strict=True):
        assert VELAN_WORDS[offset:].startswith(token)
    likeliest = [top for part in parts for top in part.top_logprobs]
    assert [top[token] for top, token in zip(likeliest, tokens, strict=True)] == logprobs
    assert {len(top) for top in likeliest} == {2}


async def test_killed_engine_loses_no_log_probability(
    served: Any, client: openai.AsyncOpenAI, asked: Asked
) -> None:
    request = asked("spell", " ".join(list(VELAN)[:20]), logprobs=True)
    stream = await client.chat.completions.create(**request, stream=True)
    tokens, text = list[ChatCompletionTokenLogprob](), ""
    async for chunk in stream:
        choice = chunk.choices[0]
        text += choice.delta.content or ""
        if choice.logprobs and not tokens:
            served.engine().kill()
        tokens += (choice.logprobs.content or []) if choice.logprobs else []
    assert written(tokens) == text
    assert len(tokens) > 100


async def test_biased_token_is_never_or_always_sampled(
    client: openai.AsyncOpenAI, asked: Asked
) -> None:
    first, wanted = token_ids(VELAN_WORDS)[0], token_ids("castle")[0]
    request = asked("translate", WORDS, max_tokens=3)
    never = await client.chat.completions.create(**request, logit_bias={str(first): -100})
    always = await client.chat.completions.create(**request, logit_bias={str(wanted): 100})
    assert not (never.choices[0].message.content or "").startswith(VELAN_WORDS.split()[0])
    assert always.choices[0].message.content == "castle castle castle"


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty", "repetition_penalty"])
async def test_penalty_reduces_repetition(
    client: openai.AsyncOpenAI, asked: Asked, name: str
) -> None:
    async def repeated(**extra: float) -> float:
        request = {**asked("diary", DIARY, logprobs=True, n=8, seed=3), "temperature": 1.0}
        completion = await client.chat.completions.create(**request, extra_body=extra)
        answers = [choice.logprobs.content for choice in completion.choices if choice.logprobs]
        shares = [len({token.token for token in each}) / len(each) for each in answers if each]
        return 1 - sum(shares) / len(shares)

    assert await repeated(**{name: 2.0}) < 0.8 * await repeated()


@pytest.mark.parametrize(
    "extra", [{"top_k": 1}, {"min_p": 1.0}, {"top_k": -1, "min_p": 1}, {"top_p": 0}]
)
async def test_sampling_from_the_likeliest_token_alone_is_greedy(
    client: openai.AsyncOpenAI, asked: Asked, extra: dict[str, float]
) -> None:
    completion = await client.chat.completions.create(
        **{**asked("translate", WORDS), "temperature": 2.0}, extra_body=extra
    )
    assert completion.choices[0].message.content == VELAN_WORDS


@pytest.mark.parametrize(
    ("change", "param", "accepted"),
    [
        ({"n": 0}, "n", "n is 0; accepted is 1 to 128"),
        ({"n": 10**30}, "n", "accepted is 1 to 128"),
        ({"temperature": 2.5}, "temperature", "temperature is 2.5; accepted is 0 to 2"),
        ({"top_p": -0.1}, "top_p", "top_p is -0.1; accepted is 0 to 1"),
        ({"top_k": -2}, "top_k", "top_k is -2; accepted is -1 to 1000000"),
        ({"top_k": 10**30}, "top_k", "accepted is -1 to 1000000"),
        ({"min_p": 1.5}, "min_p", "min_p is 1.5; accepted is 0 to 1"),
        ({"presence_penalty": 3}, "presence_penalty", "accepted is -2 to 2"),
        ({"frequency_penalty": -2.5}, "frequency_penalty", "accepted is -2 to 2"),
        ({"repetition_penalty": 0}, "repetition_penalty", "accepted is 0.01 to 10"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty", "accepted is 0.01 to 10"),
        ({"logit_bias": {"king": 1}}, "logit_bias", "'king'; accepted are token ids"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", "'-1'; accepted are token ids"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "token 5 is 101.0; accepted is -100 to 100"),
        ({"logit_bias": {"890": 1}}, "logit_bias", "890; accepted are this model's, 0 to 889"),
        ({"logit_bias": {str(n): 1 for n in range(1025)}}, "logit_bias", "at most 1024"),
    ],
)
async def test_invalid_sampling_parameter_is_named_with_the_accepted_range(
    client: openai.AsyncOpenAI,
    asked: Asked,
    change: dict[str, Any],
    param: str,
    accepted: str,
) -> None:
    chat = client.chat.completions.create(**asked("translate", WORDS), extra_body=change)
    text = client.completions.create(model="lmaas-demo", prompt="king", extra_body=change)
    code = "unsupported_parameter" if "not supported" in accepted else "invalid_value"
    for answer in (chat, text):
        with pytest.raises(openai.BadRequestError) as caught:
            await answer
        assert (caught.value.code, caught.value.param) == (code, param)
        assert accepted in caught.value.message


@pytest.mark.parametrize(
    ("change", "accepted"),
    [
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs is 21; accepted is 0 to 20"),
        ({"top_logprobs": 2}, "only accepted with logprobs set to true"),
    ],
)
async def test_invalid_top_logprobs_are_refused(
    client: openai.AsyncOpenAI, asked: Asked, change: dict[str, Any], accepted: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=accepted) as caught:
        await client.chat.completions.create(**asked("translate", WORDS, **change))
    assert caught.value.param == "top_logprobs"


@pytest.mark.parametrize("value", [-1, 6])
async def test_completion_reports_at_most_five_likeliest_tokens(
    client: openai.AsyncOpenAI, value: int
) -> None:
    with pytest.raises(openai.BadRequestError, match="accepted is 0 to 5") as caught:
        await client.completions.create(model="lmaas-demo", prompt="king", logprobs=value)
    assert caught.value.param == "logprobs"
