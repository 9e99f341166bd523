"""Batches with the official client: files up, answers down, each line once."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch

from tests.conftest import PATIENCE_S

WORDS = ("king", "brave", "river", "stone")
LONG = {"max_tokens": 300, "logit_bias": {"4": -100}}  # the end token is banned


def line(
    asked: Any, custom_id: str, text: str, url: str = "/v1/chat/completions", **more: Any
) -> str:
    body = asked("translate", text, **more)
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


async def submitted(
    client: openai.AsyncOpenAI, lines: list[str], endpoint: str = "/v1/chat/completions"
) -> Batch:
    content = "\n".join(lines).encode()
    file = await client.files.create(file=("lines.jsonl", content), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id,
        endpoint=endpoint,
        completion_window="24h",
        metadata={"name": "a test"},
    )


async def ended(client: openai.AsyncOpenAI, batch: Batch) -> Batch:
    async with asyncio.timeout(PATIENCE_S):
        while batch.status not in ("completed", "failed", "expired", "cancelled"):
            await asyncio.sleep(0.1)
            batch = await client.batches.retrieve(batch.id)
    return batch


async def lines_of(client: openai.AsyncOpenAI, file_id: str | None) -> list[Any]:
    assert file_id is not None
    content = await client.files.content(file_id)
    return [json.loads(each) for each in content.text.splitlines()]


async def test_every_line_is_answered_as_the_route_answers_it(
    client: openai.AsyncOpenAI, asked: Any
) -> None:
    lines = [line(asked, f"line {n}", word) for n, word in enumerate(WORDS)]
    batch = await ended(client, await submitted(client, lines))
    assert batch.status == "completed", batch.errors
    assert batch.request_counts
    assert (batch.request_counts.total, batch.request_counts.completed) == (4, 4)
    assert batch.error_file_id is None
    assert batch.metadata == {"name": "a test"}
    assert batch.usage
    written = await lines_of(client, batch.output_file_id)
    assert [each["custom_id"] for each in written] == [f"line {n}" for n in range(4)]
    for each, word in zip(written, WORDS, strict=True):
        direct = await client.chat.completions.create(**asked("translate", word))
        body = each["response"]["body"]
        assert each["response"]["status_code"] == 200
        (choice,) = body["choices"]
        assert choice["message"]["content"] == direct.choices[0].message.content
        assert choice["finish_reason"] == direct.choices[0].finish_reason
        assert body["object"] == "chat.completion"
        assert body["model"] == "lmaas-demo"
    usages = [each["response"]["body"]["usage"] for each in written]
    assert batch.usage.output_tokens == sum(usage["completion_tokens"] for usage in usages)
    assert batch.usage.input_tokens_details.cached_tokens == sum(
        usage["prompt_tokens_details"]["cached_tokens"] for usage in usages
    )


async def test_bad_lines_are_in_the_error_file_and_the_rest_runs(
    client: openai.AsyncOpenAI, asked: Any
) -> None:
    lines = [
        line(asked, "good", "king"),
        "{not json",
        line(asked, "good", "brave"),
        line(asked, "streamed", "river", stream=True),
        line(asked, "elsewhere", "river", url="/v1/embeddings"),
        line(asked, "hot", "river", temperature=7),
        line(asked, "last", "stone"),
    ]
    batch = await ended(client, await submitted(client, lines))
    assert batch.status == "completed"
    assert batch.request_counts
    assert batch.request_counts.to_dict() == {"total": 7, "completed": 2, "failed": 5}
    written = await lines_of(client, batch.output_file_id)
    assert [each["custom_id"] for each in written] == ["good", "last"]
    refused = await lines_of(client, batch.error_file_id)
    assert [each["custom_id"] for each in refused] == [None, "good", "streamed", "elsewhere", "hot"]
    assert [each["error"] and each["error"]["code"] for each in refused] == [
        "invalid_line",
        "duplicate_custom_id",
        None,
        "mismatched_url",
        None,
    ]
    hot = refused[-1]["response"]
    assert hot["status_code"] == 400
    assert hot["body"]["error"]["param"] == "temperature"


async def test_file_of_bad_lines_fails_with_the_reasons(client: openai.AsyncOpenAI) -> None:
    batch = await ended(client, await submitted(client, ["{}", "also no request"]))
    assert batch.status == "failed"
    assert batch.errors
    assert batch.errors.data
    assert [problem.line for problem in batch.errors.data] == [1, 2]


async def test_text_completions_run_in_a_batch(client: openai.AsyncOpenAI) -> None:
    body = {
        "model": "lmaas-demo",
        "prompt": "brave king",
        "max_tokens": 3,
        "temperature": 0,
        "n": 2,
    }
    request = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body}
    made = await submitted(client, [json.dumps(request)], "/v1/completions")
    batch = await ended(client, made)
    (written,) = await lines_of(client, batch.output_file_id)
    assert written["response"]["body"]["object"] == "text_completion"
    assert len(written["response"]["body"]["choices"]) == 2


async def test_cancelled_batch_keeps_what_it_completed(
    client: openai.AsyncOpenAI, asked: Any
) -> None:
    lines = [line(asked, "0", "king", max_tokens=1)]
    lines += [line(asked, str(n), " ".join(WORDS), **LONG) for n in range(1, 400)]
    batch = await submitted(client, lines)
    async with asyncio.timeout(PATIENCE_S):
        while not (batch.request_counts and batch.request_counts.completed):
            await asyncio.sleep(0.05)
            batch = await client.batches.retrieve(batch.id)
    assert (await client.batches.cancel(batch.id)).status in ("cancelling", "cancelled")
    batch = await ended(client, batch)
    assert batch.status == "cancelled"
    done = {each["custom_id"] for each in await lines_of(client, batch.output_file_id)}
    not_done = await lines_of(client, batch.error_file_id)
    assert {each["error"]["code"] for each in not_done} == {"batch_cancelled"}
    assert done | {each["custom_id"] for each in not_done} == set(map(str, range(400)))
    assert len(done) + len(not_done) == 400
    with pytest.raises(openai.ConflictError):
        await client.batches.cancel(batch.id)


async def test_line_is_explained_by_its_request_id(
    served: Any, client: openai.AsyncOpenAI, asked: Any
) -> None:
    batch = await ended(client, await submitted(client, [line(asked, "a", "king")]))
    (written,) = await lines_of(client, batch.output_file_id)
    path = f"/admin/requests/{written['response']['request_id']}"
    async with served.admin() as admin, asyncio.timeout(PATIENCE_S):
        while (answer := await admin.get(path)).status_code == 404:  # it is inserted soon
            await asyncio.sleep(0.05)
    explained = answer.raise_for_status().json()
    assert (explained["state"], explained["lane"]) == ("ended", "batch")
    assert (
        explained["generation_tokens"] == written["response"]["body"]["usage"]["completion_tokens"]
    )


async def test_batches_are_listed_for_their_tenant_alone(
    served: Any, client: openai.AsyncOpenAI, asked: Any
) -> None:
    made = [await submitted(client, [line(asked, "a", "king")]) for _ in range(3)]
    listed = [batch.id async for batch in client.batches.list(limit=2)]
    assert listed[:3] == [batch.id for batch in reversed(made)]
    _, key = await served.tenant("without batches")
    async with served.client(key) as stranger:
        assert [batch async for batch in stranger.batches.list()] == []
        for other in (made[0].id, "batch_unknown"):
            with pytest.raises(openai.NotFoundError):
                await stranger.batches.retrieve(other)
        with pytest.raises(openai.NotFoundError):
            await stranger.batches.create(
                input_file_id=made[0].input_file_id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
            )


async def test_command_line_submits_watches_and_fetches(
    served: Any, asked: Any, tmp_path: Path
) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n".join(line(asked, word, word) for word in WORDS) + "\n")
    access = ("--url", served.url, "--key", "sk-lmaas-tests-of-the-whole")

    async def lmaas(*arguments: str) -> bytes:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "batch", *arguments, *access),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        assert process.returncode == 0, errors
        return output

    batch = json.loads(await lmaas("submit", str(lines), "--watch", "--metadata", "a=b"))
    assert batch["status"] == "completed"
    assert batch["metadata"] == {"a": "b"}
    assert json.loads(await lmaas("watch", batch["id"]))["id"] == batch["id"]
    answers = [json.loads(each) for each in (await lmaas("result", batch["id"])).splitlines()]
    assert [each["custom_id"] for each in answers] == list(WORDS)
