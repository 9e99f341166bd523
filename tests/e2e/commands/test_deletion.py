"""A tenant that is deleted while its requests wait."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from typing import Any

import openai
import pytest

from tests.conftest import PATIENCE_S


async def test_deletion_ends_the_tenants_requests_and_refuses_its_key(
    served: Any, asked: Any, environment: Any
) -> None:
    _, key = await served.tenant("deleted at work")
    client = served.client(key)
    body = asked("spell", "brave queen")
    async with served.admin() as admin, asyncio.timeout(PATIENCE_S):
        await admin.post("/admin/engine/pause")
        try:
            waiting = asyncio.create_task(client.chat.completions.create(**body))
            stream = await client.chat.completions.create(**body, stream=True)
            while (await served.health())["waiting"] < 2:
                await asyncio.sleep(0.02)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway", "admin"),
                *("tenants", "delete", "deleted at work", "--yes"),
                stdout=PIPE,
                env=environment(served.data_dir),
            )
            output, _ = await process.communicate()
            assert process.returncode == 0
            assert b"deleted at work" in output
            with pytest.raises(openai.ConflictError, match="was deleted"):
                await waiting
            with pytest.raises(openai.APIError, match="was deleted"):
                async for _ in stream:
                    pass
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
        finally:
            await admin.post("/admin/engine/resume")
    await client.close()
    await served.idle()
