"""A batch whose gateway is killed: the next one goes on, and each line has one answer."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.conftest import PATIENCE_S

Asked = Callable[..., dict[str, Any]]
LINES = 120
VALUES = ("king", "brave king", "river stone", "stone")
LONG = {"max_tokens": 60, "logit_bias": {"4": -100}}  # the end token is banned
SHORT = {"max_tokens": 1}


async def test_killed_gateway_loses_and_doubles_no_line(own: Any, asked: Asked) -> None:
    gateway = await own.running()
    tenant, key = await gateway.tenant("killed with a batch")
    content = "\n".join(
        json.dumps(
            {
                "custom_id": f"line {n}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": asked(
                    "spell", f"{VALUES[n % 4]} {VALUES[n % 3]}", **(LONG if n else SHORT)
                ),
            }
        )
        for n in range(LINES)
    )
    async with gateway.client(key) as client:
        file = await client.files.create(file=("lines.jsonl", content.encode()), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="1h"
        )
        async with asyncio.timeout(PATIENCE_S):
            while not (batch.request_counts and batch.request_counts.completed):
                await asyncio.sleep(0.02)
                batch = await client.batches.retrieve(batch.id)
    gateway.process.kill()
    gateway.process.wait()
    assert batch.request_counts.completed < LINES

    again = await own.running()
    async with again.client(key) as client:
        async with asyncio.timeout(PATIENCE_S):
            while batch.status != "completed":
                assert batch.status in ("in_progress", "finalizing")
                await asyncio.sleep(0.1)
                batch = await client.batches.retrieve(batch.id)
        output = await client.files.content(batch.output_file_id)
    names = Counter(json.loads(line)["custom_id"] for line in output.text.splitlines())
    assert names == Counter(f"line {n}" for n in range(LINES))
    assert batch.request_counts.completed == LINES
    async with asyncio.timeout(PATIENCE_S):
        while await again.history(tenant) < LINES:
            await asyncio.sleep(0.1)
    assert await again.history(tenant) == LINES
