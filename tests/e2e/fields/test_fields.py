"""Fields that load generators, pass@k and agent frameworks send, called by the official client."""

from collections.abc import Callable
from typing import Any

import openai
import pytest

from engine.checkpoints.catalogue import DEMO_FOLDER
from engine.demo.lexicon import VELAN
from gateway.generation.text.tokenizer import ChatTokenizer

Asked = Callable[..., dict[str, Any]]
WORDS = "brave queen finds golden castle"
VELAN_WORDS = [VELAN[word] for word in WORDS.split()]
ANSWER = " ".join(VELAN_WORDS)
PROMPT = f"<|system|>Translate into Velan, word by word.<|user|>{WORDS}<|assistant|>"
TOKENIZER = ChatTokenizer(DEMO_FOLDER)


def first_choice(answer: Any) -> dict[str, Any]:
    fields: dict[str, Any] = answer.model_dump()["choices"][0]
    return fields


async def complete(client: openai.AsyncOpenAI, **fields: Any) -> dict[str, Any]:
    body = {"model": "lmaas-demo", "prompt": PROMPT, "temperature": 0, "max_tokens": 60, **fields}
    known = {"model", "prompt", "temperature", "max_tokens", "stop", "best_of", "n", "logprobs"}
    own = {name: body.pop(name) for name in list(body) if name not in known}
    return first_choice(await client.completions.create(**body, extra_body=own))


async def test_end_is_held_off_for_min_tokens_or_ignored(client: openai.AsyncOpenAI) -> None:
    natural = await complete(client)
    length = len(TOKENIZER.encode(natural["text"]))
    longer = await complete(client, min_tokens=length + 5, logprobs=0)
    endless = await complete(client, ignore_eos=True, logprobs=0)
    assert natural["text"] == ANSWER
    assert len(longer["logprobs"]["tokens"]) >= length + 5
    assert longer["text"].startswith(ANSWER)
    assert (endless["finish_reason"], len(endless["logprobs"]["tokens"])) == ("length", 60)


async def test_predicted_length_knows_what_the_request_makes_certain(served: Any) -> None:
    body = {"model": "lmaas-demo", "messages": [{"role": "user", "content": WORDS}]}
    async with served.caller() as caller:
        for options, least in (({"min_tokens": 41}, 41), ({"ignore_eos": True}, 50)):
            fields = {**body, "max_tokens": 50, **options}
            predicted = await caller.post("/v1/length-predictions", json=fields)
            assert predicted.json()["quantiles"]["p10"] == least


@pytest.mark.parametrize("shown", [False, True])
async def test_stop_string_and_stop_token_are_named_and_shown_if_asked_for(
    client: openai.AsyncOpenAI, *, shown: bool
) -> None:
    third = VELAN_WORDS[2]
    token = TOKENIZER.encode(f"{VELAN_WORDS[0]} {VELAN_WORDS[1]} {third}")
    before = TOKENIZER.encode(f"{VELAN_WORDS[0]} {VELAN_WORDS[1]}")
    stop_id = token[len(before)]
    options = {"include_stop_str_in_output": shown}
    by_string = await complete(client, stop=["never", third], **options)
    by_token = await complete(client, stop_token_ids=[stop_id], **options)
    assert by_string["text"] == ANSWER[: ANSWER.index(third) + len(third) * shown]
    assert by_string["stop_reason"] == third
    piece = TOKENIZER.speller.spell(stop_id).text if shown else ""
    assert by_token["text"] == " ".join(VELAN_WORDS[:2]) + piece
    assert (by_token["stop_reason"], by_token["finish_reason"]) == (stop_id, "stop")


async def test_bad_words_are_not_generated(client: openai.AsyncOpenAI) -> None:
    assert VELAN_WORDS[1] in (await complete(client))["text"]
    assert VELAN_WORDS[1] not in (await complete(client, bad_words=VELAN_WORDS[1:2]))["text"]


async def test_only_allowed_tokens_are_generated(client: openai.AsyncOpenAI) -> None:
    (allowed,) = {TOKENIZER.encode(" castle")[-1]}
    answer = await complete(client, allowed_token_ids=[allowed], max_tokens=3, logprobs=0)
    assert {each.strip() for each in answer["logprobs"]["tokens"]} == {"castle"}


async def test_of_a_long_prompt_the_end_or_the_start_is_kept(client: openai.AsyncOpenAI) -> None:
    ids = TOKENIZER.encode(PROMPT)
    whole = await complete(client, prompt=ids)
    end = await complete(client, prompt=[5] * 3000 + ids, truncate_prompt_tokens=len(ids))
    fits = await complete(client, prompt=[5] * 3000, truncate_prompt_tokens=-1)
    start = await complete(
        client, prompt=ids + [5] * 9, truncate_prompt_tokens=len(ids), truncation_side="right"
    )
    assert whole["text"] == end["text"] == start["text"] == ANSWER
    assert fits["finish_reason"] in ("stop", "length")


async def test_the_final_message_is_continued(client: openai.AsyncOpenAI, asked: Asked) -> None:
    begun = " ".join(VELAN_WORDS[:2])
    request = asked("translate", WORDS, temperature=0)
    request["messages"].append({"role": "assistant", "content": begun})
    options = {"continue_final_message": True, "add_generation_prompt": False}
    answer = await client.chat.completions.create(**request, extra_body=options)
    assert begun + (answer.choices[0].message.content or "") == ANSWER


async def test_a_continued_text_keeps_the_space_after_it(client: openai.AsyncOpenAI) -> None:
    begun = await complete(client, max_tokens=1)
    rest = await complete(client, prompt=f"{PROMPT}{begun['text']}", logprobs=0)
    assert begun["text"] + rest["text"] == ANSWER
    assert "".join(rest["logprobs"]["tokens"]) == rest["text"]


async def test_best_answers_are_returned_and_all_are_counted(client: openai.AsyncOpenAI) -> None:
    request: Any = {
        "model": "lmaas-demo",
        "prompt": PROMPT,
        "temperature": 1.5,
        "max_tokens": 12,
    }
    every = await client.completions.create(**request, n=6, seed=3, logprobs=0)
    best = await client.completions.create(**request, n=2, best_of=6, seed=3)

    def mean_logprob(choice: Any) -> float:
        scores = choice.logprobs.token_logprobs
        return sum(scores) / len(scores) if scores else float("-inf")

    ranked = sorted(every.choices, key=mean_logprob, reverse=True)
    assert [choice.text for choice in best.choices] == [choice.text for choice in ranked[:2]]
    assert [choice.index for choice in best.choices] == [0, 1]
    assert best.choices[0].logprobs is None
    assert best.usage is not None
    assert every.usage is not None
    assert best.usage.completion_tokens == every.usage.completion_tokens


async def test_a_stream_of_several_prompts_has_their_choices_in_order(
    client: openai.AsyncOpenAI,
) -> None:
    request: Any = {"model": "lmaas-demo", "temperature": 0, "max_tokens": 40, "n": 2}
    prompts = [PROMPT, "the brave king", PROMPT.replace("queen", "king")]
    whole = await client.completions.create(**request, prompt=prompts)
    stream = await client.completions.create(
        **request,
        prompt=prompts,
        stream=True,
        stream_options={"include_usage": True},
    )
    texts = [""] * 6
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
        usage = chunk.usage
    assert texts == [choice.text for choice in whole.choices]
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens


async def test_every_event_has_the_usage_so_far_if_asked_for(
    client: openai.AsyncOpenAI, asked: Asked
) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    stream = await client.chat.completions.create(
        **asked("translate", WORDS), stream=True, stream_options=options
    )
    counted = [chunk.usage.completion_tokens async for chunk in stream if chunk.usage]
    assert counted == sorted(counted)
    assert len(counted) > 2


async def test_many_choices_and_many_stops_are_accepted(client: openai.AsyncOpenAI) -> None:
    stops = [f"never {number}" for number in range(64)]
    answer = await client.completions.create(
        model="lmaas-demo", prompt=PROMPT, n=32, max_tokens=4, temperature=1, stop=stops
    )
    assert len(answer.choices) == 32


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"min_tokens": 17, "max_tokens": 16}, "min_tokens", "at most 16"),
        ({"min_tokens": -1}, "min_tokens", "accepted is 0 to"),
        ({"stop_token_ids": [890]}, "stop_token_ids", "0 to 889"),
        ({"allowed_token_ids": [890]}, "allowed_token_ids", "0 to 889"),
        ({"allowed_token_ids": []}, "allowed_token_ids", "length >= 1"),
        ({"stop_token_ids": [1] * 1025}, "stop_token_ids", "length <= 1024"),
        ({"bad_words": [""]}, "bad_words[0]", "length >= 1"),
        ({"bad_words": ["a"] * 129}, "bad_words", "length <= 128"),
        ({"best_of": 1, "n": 2}, "best_of", "at least n, which is 2"),
        ({"best_of": 3, "n": 2, "stream": True}, "best_of", "stream set to false"),
        ({"best_of": 129}, "best_of", "accepted is 1 to 128"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "-1, for what fits"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens", "accepted is -1 to"),
        ({"truncation_side": "left"}, "truncation_side", "only accepted with"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    served: Any, change: dict[str, Any], param: str, message: str
) -> None:
    async with served.caller() as caller:
        body = {"model": "lmaas-demo", "prompt": "king", "max_tokens": 4, **change}
        answer = await caller.post("/v1/completions", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert message in error["message"]


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "sets 'messages'"),
        ({"chat_template_kwargs": {"a b": 1}}, "chat_template_kwargs", "sets 'a b'"),
        ({"chat_template_kwargs": {"a": "x" * 20_000}}, "chat_template_kwargs", "16384"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
            "cannot be true",
        ),
    ],
)
async def test_what_a_template_cannot_have_is_refused_by_name(
    served: Any, change: dict[str, Any], param: str, message: str
) -> None:
    async with served.caller() as caller:
        messages = [{"role": "user", "content": "king"}]
        body = {"model": "lmaas-demo", "messages": messages, **change}
        answer = await caller.post("/v1/chat/completions", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["param"].startswith(param)
    assert message in error["message"]
