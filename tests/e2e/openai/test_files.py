"""OpenAI's client uploads, lists, reads and deletes files of a running gateway."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import openai
import psutil
import pytest

BOUNDARY = "x-boundary-x"
HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="l.jsonl"\r\n\r\n'
).encode()
END = f"\r\n--{BOUNDARY}--\r\n".encode()
PIECE = bytes(range(256)) * 1024  # 256 KiB
PIECES = 256  # 64 MiB
MOST_GROWTH = 24 << 20  # bytes: a third of the file


@pytest.fixture
async def files_client(served: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    """The client of a tenant that has no other files."""
    _, key = await served.tenant("files of its own")
    async with served.client(key) as client:
        yield client


async def test_client_creates_lists_retrieves_reads_and_deletes_files(
    files_client: openai.AsyncOpenAI,
) -> None:
    lines = b'{"custom_id": "1"}\n' * 1000
    made = [
        await files_client.files.create(file=(f"{number}.jsonl", lines), purpose="batch")
        for number in range(3)
    ]
    file = made[0]
    assert (file.object, file.bytes, file.filename) == ("file", len(lines), "0.jsonl")
    assert (file.purpose, file.status) == ("batch", "processed")
    assert await files_client.files.retrieve(file.id) == file
    listed = [each async for each in files_client.files.list(limit=2, order="asc", purpose="batch")]
    assert listed == made
    content = await files_client.files.content(file.id)
    assert content.content == lines
    for each in made:
        assert (await files_client.files.delete(each.id)).deleted
    assert not (await files_client.files.list()).data
    with pytest.raises(openai.NotFoundError):
        await files_client.files.content(file.id)


async def test_client_may_ask_for_an_expiry(client: openai.AsyncOpenAI) -> None:
    file = await client.files.create(
        file=b"x", purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at is not None
    assert file.expires_at - file.created_at == 3600
    await client.files.delete(file.id)


async def test_other_purposes_are_refused(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="accepted is batch"):
        await client.files.create(file=b"x", purpose="fine-tune")


async def test_large_file_passes_through_little_memory(served: Any) -> None:
    process = psutil.Process(served.process.pid)
    digest, most = hashlib.sha256(), 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal most
        yield HEAD
        for _ in range(PIECES):
            digest.update(PIECE)
            yield PIECE
            most = max(most, process.memory_info().rss)
        yield END

    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    async with served.caller() as caller:
        before = process.memory_info().rss
        answer = await caller.post("/v1/files", content=body(), headers=headers)
        file = answer.raise_for_status().json()
        assert file["bytes"] == PIECES * len(PIECE)
        read, path = hashlib.sha256(), f"/v1/files/{file['id']}"
        async with caller.stream("GET", f"{path}/content") as content:
            assert content.headers["etag"] == f'"{digest.hexdigest()}"'
            async for piece in content.aiter_bytes():
                read.update(piece)
                most = max(most, process.memory_info().rss)
        assert read.digest() == digest.digest()
        assert most - before < MOST_GROWTH
        await caller.delete(path)


async def test_administrator_erases_the_files_of_a_tenant(served: Any) -> None:
    tenant, key = await served.tenant("with files")
    async with served.client(key) as client, served.admin() as admin:
        file = await client.files.create(file=b"12345", purpose="batch")
        erased = await admin.delete(f"/admin/tenants/{tenant}/files")
        assert erased.json() == {"files": 1, "size_bytes": 5}
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(file.id)


async def test_cut_off_upload_shows_nowhere(served: Any) -> None:
    _, key = await served.tenant("cut off")

    async def body() -> AsyncIterator[bytes]:
        yield HEAD + PIECE + PIECE
        raise ConnectionResetError

    headers = {
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
        "Authorization": f"Bearer {key}",
    }
    async with served.caller() as caller:
        with pytest.raises(ConnectionResetError):
            await caller.post("/v1/files", content=body(), headers=headers)
    async with served.client(key) as client:
        assert not (await client.files.list()).data
